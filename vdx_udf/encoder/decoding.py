"""From a picture's bytes to its pixels, as a viewer shows it. Knows nothing of the model."""

import atexit
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from vdx_udf import settings
from vdx_udf.encoder import samples
from vdx_udf.encoder.decoder import DecoderPool, ImageError
from vdx_udf.encoder.picture_file import bare, exif_orientation, extra_of, is_ico, is_tga, pixels_only, png_profile, scans
from vdx_udf.encoder.thumbnails import fitted, reduced

# What Pillow may take a content for; as JPEG also MPO, one with further pictures behind it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA")
EXTRAS = {"heic": ("HEIF", "a HEIC picture"), "jxl": ("JXL", "a JPEG XL picture")}  # and with an extra of this package
# Those whose time grows with their pixels and passes alone, and little, while neither is many, and whose decoder (Pillow's
# name for it) is none in Python, which would hold up all other threads: these need no watching.
QUICK = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB")
QUICK_DECODERS = ("jpeg", "zip", "gif", "raw")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
Image.MAX_IMAGE_PIXELS = settings.MAX_PIXELS  # beyond it Pillow warns, at twice that it raises
_elsewhere = DecoderPool(os.cpu_count() or 1)  # as many as threads that decode; 36 MB each at rest, started when needed
atexit.register(_elsewhere.close)


class _Timed(io.BytesIO):
    """Content that stops being read once the decoder has worked on it for DECODE_SECONDS."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._deadline = time.monotonic() + settings.DECODE_SECONDS

    def read(self, size: int | None = -1) -> bytes:
        if time.monotonic() > self._deadline:
            raise ImageError(f"decoding it takes longer than {settings.DECODE_SECONDS} s")
        return super().read(size)


@dataclass(frozen=True)
class Opened:
    """A picture whose header was looked at; `image` is None for one that a process of its own opens, too."""

    content: bytes
    side: int
    is_thumbnail: bool
    image: Image.Image | None
    scans: int = 0  # of a JPEG at most

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height if self.image else 0

    @property
    def is_quick(self) -> bool:
        """Whether decoding it takes so little that it need not be stopped from outside."""
        if self.image is None or self.image.format not in QUICK:
            return False
        passes = settings.LARGE_PIXELS // self.pixels
        found = max(1, self.scans if self.scans <= passes else scans(self.content, passes))
        return found <= passes and all(tile[0] in QUICK_DECODERS for tile in self.image.tile)


def decode(content: bytes, side: int = 0) -> Image.Image:
    """The picture as a viewer shows it: first frame, upright (EXIF orientation applied), as 8 bits a sample.

    Its mode is otherwise the file's own, so that a model's preprocessing treats palettes and alpha as open_clip does. Samples
    that are no 8-bit ones are scaled as `samples.to_8_bits` says. A JPEG may come scaled down by 2, 4 or 8, which is faster
    to decode, as long as both sides keep `side` pixels; 0 keeps all. Raises ImageError; for too many pixels, too long a side
    or too many scans before it decodes.
    """
    return decoded(opened(content, side))


def opened(content: bytes, side: int, is_thumbnail: bool = False) -> Opened:
    """The first half of `decode`, or of a thumbnail of that side. Raises ImageError."""
    if extra_of(content) or is_ico(content):
        return Opened(content, side, is_thumbnail, None)
    return Opened(content, side, is_thumbnail, *_open(content, side, is_thumbnail))


def decoded(picture: Opened) -> Image.Image:
    """The second half: the picture of `decode`, or thumbnails.reduced; `info["file"]` is what `_file` gives."""
    if not picture.is_quick:
        return _elsewhere.decode(picture.content, picture.side, picture.is_thumbnail)
    image = _load(picture.content, picture.image)
    return _reduced(picture.content, image, picture.side) if picture.is_thumbnail else image


def decode_here(content: bytes, side: int, is_thumbnail: bool = False) -> Image.Image:
    """Both halves in this process."""
    image, _ = _open(content, side, is_thumbnail)
    image = _load(content, image)
    return _reduced(content, image, side) if is_thumbnail else image


def check(content: bytes) -> None:
    """Raises ImageError for what is no picture, as far as its beginning says it."""
    if opened(content, 0).image is None:
        _elsewhere.decode(content, 0)


def _open(content: bytes, side: int, is_thumbnail: bool) -> tuple[Image.Image, int]:
    """The picture, not decoded yet, and how many scans it has at most. A thumbnail may be of any shape."""
    with _as_image_errors(content):
        image = _identified(content)
        found = scans(content, settings.MAX_SCANS)
        _check_size(image, found)
        if not is_thumbnail and max(image.size) > settings.MAX_ASPECT * min(image.size):
            raise ImageError(f"a picture of {_size(image)}: its sides may be at most 1 to {settings.MAX_ASPECT}")
        if side and image.format in ("JPEG", "MPO"):
            image.info["whole"] = image.size
            image.draft(None, fitted(image.size, side) if is_thumbnail else (side, side))
        return image, found


def _identified(content: bytes) -> Image.Image:
    formats = [name for name in FORMATS if name != "TGA" or is_tga(content)]
    if extra := extra_of(content):
        _register(extra)
        formats = [EXTRAS[extra][0]]
    try:
        return Image.open(_Timed(pixels_only(content)), formats=formats)
    except (ImageError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        without, exif = bare(content)
        if without == content:
            raise
        image = Image.open(_Timed(without), formats=formats)
        image.info.setdefault("exif", exif)
        return image


def _load(content: bytes, image: Image.Image) -> Image.Image:
    with _as_image_errors(content):
        tags, wide = dict(getattr(image, "tag_v2", {})), samples.wide_mode(image)
        image.load()
        turned = _UPRIGHT.get(_orientation(image))
        file = _file(image, tags)
        if wide and samples.is_dark(image):
            lower = _identified(content)
            samples.take_low_bytes(lower)
            lower.load()
            image = samples.joined(image, lower, wide)
        if image.mode == "F" or image.mode.startswith("I"):
            image = samples.to_8_bits(image, tags)
        if image.mode in ("La", "RGBa"):  # nothing else converts these
            image = image.convert(image.mode.upper())
        upright = image if turned is None else image.transpose(turned)
        upright.info["file"] = file
        return upright


def _file(image: Image.Image, tags: dict) -> dict:
    """What the file says of a picture that was just loaded: its size, whole and upright, its format and its orientation."""
    lies = _orientation(image)
    width, height = image.info.get("whole", image.size)
    if lies in range(5, 9):
        width, height = height, width
    # Pillow has turned a TIFF by then, and pillow-heif its pictures.
    orientation = tags.get(_ORIENTATION) or image.info.get("original_orientation") or lies
    return {
        "width": width, "height": height, "format": image.format or "",
        "orientation": orientation if orientation in range(1, 9) else 1,
    }  # fmt: skip


def _reduced(content: bytes, image: Image.Image, side: int) -> Image.Image:
    with _as_image_errors(content):
        small = reduced(image, side, image.info.get("icc_profile") or png_profile(content))
        small.info["file"] = image.info["file"]
        return small


def _orientation(image: Image.Image) -> int:
    """As the EXIF block says; 1, upright, where it says nothing that can be read."""
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION, 1)
    return exif_orientation(image.info.get("exif", b""))


def _register(extra: str) -> None:
    """Has Pillow read what the extra adds. Raises ImageError where that is not installed."""
    try:
        if extra == "heic":
            import pillow_heif

            pillow_heif.register_heif_opener()
        else:
            import pillow_jxl  # noqa: F401
    except ImportError:
        raise ImageError(f"{EXTRAS[extra][1]}: pip install 'vdx-udf[{extra}]' has the encoder read it") from None


def _claimed(content: bytes) -> list[str]:
    """The formats that the content begins like."""
    accepts = {name: Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN}
    return [name for name, accept in accepts.items() if accept and accept(content[:16].ljust(16)) is True]


@contextmanager
def _as_image_errors(content: bytes) -> Iterator[None]:
    """Whatever a decoder can raise over a damaged file as an ImageError; what Pillow says of it can quote the file."""
    try:
        yield
    except UnidentifiedImageError:
        if known := _claimed(content):
            raise ImageError(f"a damaged picture, or a kind of {known[0]} that is not read") from None
        raise ImageError(f"not a picture; formats read: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"a picture of more than {settings.MAX_PIXELS} pixels") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        ends_early = "truncated" in str(error)
        reason = "it ends early" if ends_early else f"its data is broken ({type(error).__name__})"
        raise ImageError(f"a damaged picture: {reason}") from None


def _check_size(image: Image.Image, found_scans: int) -> None:
    if image.width * image.height > settings.MAX_PIXELS:
        raise ImageError(f"a picture of {_size(image)}: more than {settings.MAX_PIXELS} pixels")
    if found_scans > settings.MAX_SCANS:
        raise ImageError(f"a JPEG of more than {settings.MAX_SCANS} scans")


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} pixels"
