"""The SQL functions: names, types and what each means. The XML, the reference and the checks follow this file."""

from dataclasses import dataclass

from vdx_udf import settings

RESULT = "result"  # the column name of every answer; ClickHouse fills in defaults for any other name, silently


@dataclass(frozen=True)
class Function:
    """One executable function as ClickHouse sees it; `arguments` are (name, type) pairs."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    returns: str
    meaning: str
    deterministic: bool = True
    long: bool = False  # whether one row may take minutes, in silence

    def pool(self) -> dict[str, int | str]:
        """How ClickHouse is to keep its workers, as settings.POOL."""
        return settings.POOL | ({"command_read_timeout": settings.LONG_READ_TIMEOUT} if self.long else {})

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(f'{name} {kind}' for name, kind in self.arguments)})"


IMAGE = ("image", "String")
SIDE = ("side", "UInt16")
LABELS = ("labels", "Array(String)")
BOX = ("x", "y", "width", "height")
REGIONS = f"Array(Tuple({', '.join(f'{name} Float32' for name in BOX)}, vector Array(Float32)))"
VECTORS = "Array(Array(Float32))"
FUNCTIONS = {
    f.name: f
    for f in (
        Function(
            "encode_text",
            (("text", "String"),),
            "Array(Float32)",
            "CLIP embedding of a text, L2-normalised; a text longer than the model reads is cut as open_clip cuts it",
        ),
        Function(
            "encode_image",
            (IMAGE,),
            "Array(Float32)",
            "CLIP embedding of a picture given as bytes, as a path under an allowed folder or, when switched on, as an "
            "http(s) URL; a bad picture raises",
            deterministic=False,  # a path's file may change
        ),
        Function(
            "try_encode_image",
            (IMAGE,),
            "Tuple(vector Array(Float32), error String)",
            "the same, never raising for a bad picture: an empty vector and the reason",
            deterministic=False,
        ),
        Function(
            "encode_regions",
            (IMAGE, ("levels", "UInt8")),
            REGIONS,
            "CLIP embeddings of a picture's parts: the whole as encode_image sees it, then at each of `levels` finer levels (0"
            f" to {settings.REGION_LEVELS}) squares that overlap by half, of a square picture 4, 16 and 64, of one of 4 to 3 6,"
            " 24 and 88; boxes are shares of the upright picture's width and height from its top left corner. A level whose"
            " squares would be of fewer pixels than half of what the model sees is left out, as is one that would bring a very"
            f" long picture over {settings.MAX_REGIONS} regions; a bad picture raises",
            deterministic=False,
        ),
        Function(
            "try_encode_regions",
            (IMAGE, ("levels", "UInt8")),
            f"Tuple(regions {REGIONS}, error String)",
            "the same, never raising for a bad picture: no regions and the reason",
            deterministic=False,
        ),
        Function(
            "thumbnail",
            (IMAGE, SIDE),
            "String",
            "the picture, given as to encode_image, as JPEG of at most `side` pixels on its longer side, "
            f"{settings.THUMBNAIL_SIDES[0]} to {settings.THUMBNAIL_SIDES[1]:,}: upright, its colours in sRGB, what is "
            f"transparent {settings.THUMBNAIL_BACKGROUND}, never enlarged; a bad picture or side raises",
            deterministic=False,
        ),
        Function(
            "try_thumbnail",
            (IMAGE, SIDE),
            "Tuple(bytes String, error String)",
            "the same, never raising for a bad picture or side: no bytes and the reason",
            deterministic=False,
        ),
        Function(
            "vdx_cut",
            (IMAGE, *((name, "Float64") for name in BOX)),
            "String",
            "a part of a picture, given as to encode_image, as PNG: the box's place and size are shares of the upright"
            " picture's width and height from its top left corner; a bad picture or box raises",
            deterministic=False,
        ),
        Function(
            "vdx_picture_facts",
            (IMAGE,),
            "Tuple(width UInt32, height UInt32, format String, orientation UInt8, brightness Float32, darkest Float32,"
            " brightest Float32, sharpness Float32, entropy Float32, colourfulness Float32, error String)",
            "of a picture, given as to encode_image, what its file says (width and height of the whole picture upright, format,"
            " EXIF orientation) and what it looks like as a thumbnail"
            f" of {settings.FACTS_SIDE} pixels: mean, 5th and 99th percentile of brightness (0 to 1), standard deviation of the"
            " Laplacian, entropy of the grey levels in bits, colourfulness after Hasler and Suesstrunk; of a bad picture"
            " nothing but the reason",
            deterministic=False,
        ),
        Function(
            "classify",
            (("vector", "Array(Float32)"), LABELS),
            "Array(Float32)",
            "zero-shot probability per label, in the labels' order: softmax of the logit scale times cosine, prompt "
            "templates averaged; an empty vector gives an empty answer",
        ),
        Function(
            "classify_image",
            (IMAGE, LABELS),
            "Array(Float32)",
            "encode_image and classify in one call",
            deterministic=False,
        ),
        Function(
            "vdx_near",
            (("left", VECTORS), ("right", VECTORS), ("k", "UInt32"), ("least", "Float32")),
            "Array(Tuple(left UInt32, right UInt32, cosine Float32))",
            "for two arrays of unit vectors all pairs whose inner product is `least` or more, numbered from 1; of each left "
            "vector only the k best, best first, unless k is 0",
        ),
        Function(
            "vdx_kmeans",
            (("vectors", VECTORS), ("n", "UInt32")),
            VECTORS,
            "for unit vectors the unit centres of n clusters by cosine, the largest first; fewer where there are fewer "
            "different vectors; for n = 0 of 4 to 40 the number with the greatest simplified silhouette",
            long=True,
        ),
        Function(
            "vdx_layout",
            (("vectors", VECTORS),),
            "Array(Tuple(x Float32, y Float32))",
            "for unit vectors two coordinates each that keep neighbours together (UMAP), their mean 0; always the same for the "
            "same vectors in the same order",
            long=True,
        ),
        Function(
            "vdx_files",
            (("path", "String"),),
            "Array(Tuple(path String, size UInt64, error String))",
            "all files below a folder that paths may be read from, by name; of a file itself; of a glob those that it matches",
            deterministic=False,
        ),
        Function(
            "vdx_read",
            (("path", "String"),),
            "Tuple(bytes String, error String)",
            "the bytes of a picture's file, by the rules of encode_image; of anything else no bytes and the reason",
            deterministic=False,
        ),
        Function(
            "vdx_check_weights",
            (("model", "String"), ("weights_hash", "String"), ("counts", "UInt8")),
            "UInt8",
            "`counts`, for a row of images; one that counts and whose vector is of other weights than the encoder's raises: "
            "those do not compare",
            deterministic=False,  # another model may be installed
        ),
        Function(
            "vdx_encoder_info",
            (("unused", "String"),),
            "Map(String, String)",
            "what encoder_info() calls: ClickHouse sends nothing to a pooled function without arguments",
            deterministic=False,
        ),
    )
}
KINDS = ("text", "image")  # of input that the model takes
# errors: rows that got an error, and blocks that failed. encoded: inputs that went through the model, in batches; queue_seconds
# and compute_seconds are theirs, the first summed over inputs, from ready for the model to the start of their batch.
FUNCTION_COUNTERS = ("blocks", "rows", "errors", "last_error")
BATCH_COUNTERS = ("rows", "cache_hits", "batches", "encoded", "queue_seconds", "compute_seconds")
COUNTERS = (
    *(f"{function}.{counter}" for function in FUNCTIONS for counter in FUNCTION_COUNTERS),
    *(f"{kind}.{counter}" for kind in KINDS for counter in BATCH_COUNTERS),
    "last_error",
)
ENCODER_INFO_KEYS = (
    "model", "dimension", "device", "precision", "precision_reason", "parity", "jpeg_scale", "preprocessing", "logit_scale",
    "weights_hash", "vdx_udf_version", "open_clip_version", "torch_version", "uptime_seconds", "cached_embeddings", "pid",
    *COUNTERS,
)  # fmt: skip
