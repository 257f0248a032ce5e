"""Samples that are not 8 bits wide as 8: what a viewer shows of floats and of pictures with 12, 16 or 32 bits a sample."""

import re
import sys

import numpy as np
from PIL import Image

from vdx_udf.encoder.decoder import ImageError

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _LEAST, _LARGEST = 258, 262, 339, 340, 341  # tags of a TIFF
_NARROW = (255, 1_023, 4_095)  # white of 8, 10 and 12 bits
_BLACK = 16  # a picture whose samples are all below this, of 255, is black to the eye
_WIDE = re.compile("(RGB|RGBA|RGBX|LA);16[BLN]")  # as Pillow calls what lies in the file
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def to_8_bits(image: Image.Image, tags: dict) -> Image.Image:
    """Grey of 12, 16 or 32 bits a sample, or of floats, with black as 0 and white as 255; `tags` are a TIFF's.

    White and black are what the file says: SMinSampleValue and SMaxSampleValue of a TIFF, else its bits per sample where they
    are 12. Otherwise 16-bit grey is white at 65,535, but at 255, 1,023 or 4,095 where no sample is above (8, 10 or 12 bits in
    a wider container), and at the largest sample where all are below 16 (a mask). Of 32 bits and floats the largest sample is
    white, and zero, or the least where that is below, is black. So no picture comes out black because its numbers are small.
    Samples that are not finite are black, or white at plus infinity. Raises ImageError where none is finite.
    """
    samples = np.asarray(image)
    if samples.dtype == np.int32 and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        samples = samples.view(np.uint32)  # Pillow has none of its own
    samples = samples.astype(np.float32)
    if image.mode == "F":
        finite = np.isfinite(samples)
        if not finite.any():
            raise ImageError("a picture without one sample that is a finite number")
        one = samples.flat[finite.argmax()]
        least, largest = (float(end(samples, where=finite, initial=one)) for end in (np.min, np.max))
    else:
        least, largest = float(samples.min()), float(samples.max())
    black, white = _said(tags) or _found(image.mode, least, largest)
    samples -= black
    samples *= 255 / (white - black or 1)
    np.nan_to_num(samples, copy=False, nan=0, posinf=255, neginf=0)
    grey = samples.round(out=samples).clip(0, 255, out=samples).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)


def _said(tags: dict) -> tuple[float, float] | None:
    """Black and white as a TIFF says them."""
    try:
        black, white = float(np.min(tags[_LEAST])), float(np.max(tags[_LARGEST]))
        if np.isfinite((black, white)).all() and black < white:
            return black, white
    except (KeyError, TypeError, ValueError):
        pass
    return (0, 4_095) if tags.get(_BITS) == (12,) else None


def _found(mode: str, least: float, largest: float) -> tuple[float, float]:
    """Black and white by the range of the samples."""
    if mode != "F" and least >= 0 and largest <= 65_535:
        return 0, largest if largest < _BLACK else next((white for white in _NARROW if largest <= white), 65_535)
    return min(0, least), largest


def wide_mode(image: Image.Image) -> str:
    """Of a colour picture, not loaded yet, that has 16 bits a sample how these lie in the file; of another nothing."""
    args = image.tile[0][3] if len(image.tile) == 1 else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) and _WIDE.fullmatch(mode) else ""


def take_low_bytes(image: Image.Image) -> None:
    """Has a picture with a `wide_mode` that is not loaded yet give each sample's lower byte; Pillow gives the upper one.

    One of grey and alpha gives four bands instead, the upper and the lower byte of each.
    """
    mode = wide_mode(image)
    other = "RGBA" if mode.startswith("LA") else mode[:-1] + _OTHER_BYTE[mode[-1]]
    (tile,) = image.tile
    args = other if isinstance(tile[3], str) else (other, *tile[3][1:])
    image.tile = [tile._replace(args=args)]


def is_dark(image: Image.Image) -> bool:
    """Whether no colour sample of an RGB or RGBA picture is one that the eye tells from black."""
    return max(high for _, high in image.getextrema()[:3]) < _BLACK


def joined(upper: Image.Image, lower: Image.Image, mode: str) -> Image.Image:
    """The picture of 8 bits a sample that upper and lower bytes make, colours scaled as 16-bit grey is and alpha for itself."""
    high, low = (np.asarray(half).astype(np.uint16) for half in (upper, lower))
    if mode.startswith("LA"):
        low = low[..., [1, 1, 1, 3]]
    samples = high * 256 + low
    bands = []
    for part in (samples[..., :3], samples[..., 3:]):
        if part.size:
            _, white = _found("I", 0, float(part.max()))
            bands.append((part.astype(np.float32) * (255 / (white or 1))).round().astype(np.uint8))
    return Image.fromarray(np.concatenate(bands, axis=-1))
