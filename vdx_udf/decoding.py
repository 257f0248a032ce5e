"""From a picture's bytes to its pixels, as a viewer shows it. Knows nothing of the model."""

import atexit
import io
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from vdx_udf import settings
from vdx_udf.decoder import DecoderPool
from vdx_udf.image import ImageError

# What Pillow may take a content for; as JPEG also MPO, one with further pictures behind it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA")
# Those whose time grows with their pixels and passes alone, and little: while both are few their decoder needs no watching.
QUICK = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "PPM", "ICO", "TGA")
Image.MAX_IMAGE_PIXELS = settings.MAX_PIXELS  # beyond it Pillow warns, at twice that it raises
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_JXL_MAGIC = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_elsewhere = DecoderPool(settings.DECODERS)
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
    image: Image.Image | None

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height if self.image else 0

    @property
    def is_quick(self) -> bool:
        """Whether decoding it takes so little that it need not be stopped from outside."""
        if self.image is None or self.image.format not in QUICK:
            return False
        return self.pixels * max(1, _scans(self.content)) <= settings.LARGE_PIXELS


def decode(content: bytes, side: int = 0) -> Image.Image:
    """The picture as a viewer shows it: first frame, upright (EXIF orientation applied), as 8 bits a sample.

    Its mode is otherwise the file's own, so that a model's preprocessing treats palettes and alpha as open_clip does. Samples
    that are no 8-bit ones are scaled as `_to_8_bits` says. A JPEG may come scaled down by 2, 4 or 8, which is faster to
    decode, as long as both sides keep `side` pixels; 0 keeps all. Raises ImageError; for too many pixels, too long a side or
    too many scans before it decodes.
    """
    return decoded(opened(content, side))


def opened(content: bytes, side: int) -> Opened:
    """The first half of `decode`. Raises ImageError."""
    if _package_of(content):
        return Opened(content, side, None)
    return Opened(content, side, _open(content, side))


def decoded(picture: Opened) -> Image.Image:
    """The second half of `decode`."""
    return _load(picture.image) if picture.is_quick else _elsewhere.decode(picture.content, picture.side)


def decode_here(content: bytes, side: int) -> Image.Image:
    """`decode`, all of it in this process."""
    return _load(_open(content, side))


def _open(content: bytes, side: int) -> Image.Image:
    formats = FORMATS if _is_tga(content) else tuple(name for name in FORMATS if name != "TGA")
    if package := _package_of(content):
        _register(package)
        formats = ("HEIF",) if package == "heic" else ("JXL",)
    with _as_image_errors():
        image = Image.open(_Timed(_pixels_only(content)), formats=formats)
        _check_size(image, content)
        if side:
            image.draft(None, (side, side))
        return image


def _load(image: Image.Image) -> Image.Image:
    with _as_image_errors():
        image.load()
        turned = _UPRIGHT.get(_orientation(image))
        white = _white(image)
        image = image if turned is None else image.transpose(turned)
        return _to_8_bits(image, *white) if image.mode == "F" or image.mode.startswith("I") else image


def _orientation(image: Image.Image) -> int:
    """As the EXIF block says; 1, upright, where it says nothing that can be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


def _white(image: Image.Image) -> tuple[float | None, float | None]:
    """The samples that are black and white, by a TIFF's SMinSampleValue and SMaxSampleValue; None where it has none."""
    tags = getattr(image, "tag_v2", {})
    try:
        ends = (np.min(tags[340]), np.max(tags[341])) if 340 in tags and 341 in tags else (np.nan, np.nan)
        return tuple(float(end) for end in ends) if np.isfinite(ends).all() and ends[0] < ends[1] else (None, None)
    except (TypeError, ValueError):
        return None, None


def _to_8_bits(image: Image.Image, black: float | None, white: float | None) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats, with black as 0 and white as 255.

    Where the file says which samples those are (SMinSampleValue, SMaxSampleValue of a TIFF), these. Otherwise 16-bit grey is
    white at 65,535, but at 255, 1,023 or 4,095 where no sample is above: 8, 10 or 12 bits in a wider container. Of 32 bits and
    floats the largest sample is white, and zero, or the least where that is below, is black: no picture comes out black
    because its numbers are small.
    """
    samples = np.asarray(image).astype(np.float64)
    finite = samples[np.isfinite(samples)]
    if black is None or white is None:
        black, white = min(0.0, finite.min(initial=0.0)), finite.max(initial=0.0)
        if image.mode != "F" and black == 0 and white <= 65_535:
            white = next((most for most in (255, 1_023, 4_095) if white <= most), 65_535)
    scaled = (np.nan_to_num(samples, nan=black, posinf=white, neginf=black) - black) * (255 / (white - black or 1))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _pixels_only(content: bytes) -> bytes:
    """Of a PNG the chunks that pixels depend on, and its EXIF block: text and profiles, which can be broken or huge, go."""
    if not content.startswith(_PNG_MAGIC):
        return content
    kept, at = [_PNG_MAGIC], len(_PNG_MAGIC)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if not kind[0] & 32 or kind in (b"tRNS", b"eXIf"):  # a capital letter: a critical chunk
            kept.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _package_of(content: bytes) -> str | None:
    """The extra of vdx-udf that reads this content, where Pillow alone does not."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and b"avif" not in content[8:64]:
        return "heic"
    return "jxl" if content.startswith(_JXL_MAGIC) else None


def _register(package: str) -> None:
    """Has Pillow read what the extra adds. Raises ImageError where that is not installed."""
    try:
        if package == "heic":
            import pillow_heif

            pillow_heif.register_heif_opener()
        else:
            import pillow_jxl  # noqa: F401
    except ImportError:
        name = {"heic": "a HEIC picture", "jxl": "a JPEG XL picture"}[package]
        raise ImageError(f"{name}: pip install 'vdx-udf[{package}]' has the encoder read it") from None


def _is_tga(content: bytes) -> bool:
    """TGA begins with no mark of its own: it is believed by its footer, or by a length that is its header's to the byte."""
    if content.endswith(_TGA_FOOTER):
        return True
    if len(content) < 18:
        return False
    id_length, map_kind, kind, map_length, map_bits, width, height, bits = struct.unpack_from("<BBBxxHBxxxxHHB", content)
    body = width * height * ((bits + 7) // 8)
    return kind in (1, 2, 3) and len(content) == 18 + id_length + map_kind * map_length * ((map_bits + 7) // 8) + body


@contextmanager
def _as_image_errors() -> Iterator[None]:
    """Whatever a decoder can raise over a damaged file as an ImageError; what Pillow says of it can quote the file."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"not a picture; formats read: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"a picture of more than {settings.MAX_PIXELS} pixels") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        ends_early = "truncated" in str(error)
        reason = "it ends early" if ends_early else f"its data is broken ({type(error).__name__})"
        raise ImageError(f"a damaged picture: {reason}") from None


def _scans(content: bytes) -> int:
    """How many scans a JPEG has, by its marks, whatever its format is called; at most so many, where pictures lie behind it."""
    return content.count(b"\xff\xda") if content.startswith(b"\xff\xd8") else 0


def _check_size(image: Image.Image, content: bytes) -> None:
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > settings.MAX_PIXELS:
        raise ImageError(f"a picture of {size}: more than {settings.MAX_PIXELS} pixels")
    if max(image.size) > settings.MAX_ASPECT * min(image.size):
        raise ImageError(f"a picture of {size}: its sides may be at most 1 to {settings.MAX_ASPECT}")
    if _scans(content) > settings.MAX_SCANS:
        raise ImageError(f"a JPEG of more than {settings.MAX_SCANS} scans")
