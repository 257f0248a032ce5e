"""Numbers of a picture that say at a glance whether something is odd about it: too dark, blurred, without colour.

Percentiles of brightness and the entropy are cleanvision's (github.com/cleanlab/cleanvision, image_property.py), of the
picture as a viewer shows it, reduced to FACTS_SIDE pixels, which is about what a model sees of it. sql/17_health.sql says
from which number on a picture counts as odd.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

_PERCEIVED = np.array([0.241, 0.691, 0.068], np.float32)  # shares of red, green and blue, squared, in brightness: cleanvision's


class Facts(NamedTuple):
    """In the order and of the types that the contract's vdx_picture_facts has them."""

    width: int  # of the whole picture, upright
    height: int
    format: str  # as Pillow calls it
    orientation: int  # of EXIF, 1 to 8; 1 is upright
    brightness: float  # mean over pixels, 0 to 1
    darkest: float  # 5th percentile
    brightest: float  # 99th percentile
    sharpness: float
    entropy: float  # bits
    colourfulness: float


NO_FACTS = Facts(0, 0, "", 0, 0, 0, 0, 0, 0, 0)  # of what is no picture


def measured(small: Image.Image) -> Facts:
    """Facts of a picture that decoding.decoded reduced: RGB, with what its file says in `info`."""
    pixels = np.asarray(small, np.float32)
    grey = small.convert("L")
    brightness = np.sqrt(pixels**2 @ _PERCEIVED) / 255
    darkest, brightest = np.percentile(brightness, (5, 99))
    return Facts(
        **small.info["file"],
        brightness=float(brightness.mean(dtype=np.float64)),
        darkest=float(darkest),
        brightest=float(brightest),
        sharpness=_sharpness(np.asarray(grey, np.float32)),
        entropy=abs(grey.entropy()),  # of one level -0.0
        colourfulness=_colourfulness(pixels),
    )


def _sharpness(grey: np.ndarray) -> float:
    """Standard deviation of the Laplacian, in levels of 255; beyond the picture's edge it goes on as at the edge.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000).
    """
    p = np.pad(grey, 1, "edge")
    laplacian = 4 * grey - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]
    return float(laplacian.std(dtype=np.float64))


def _colourfulness(pixels: np.ndarray) -> float:
    """Of Hasler and Suesstrunk, Measuring colorfulness in natural images (2003): 0 grey, 15 slightly, 109 extremely so."""
    red, green, blue = np.moveaxis(pixels, 2, 0)
    opponents = np.stack((red - green, (red + green) / 2 - blue)).reshape(2, -1)
    deviation, mean = opponents.std(axis=1, dtype=np.float64), opponents.mean(axis=1, dtype=np.float64)
    return float(np.hypot(*deviation) + 0.3 * np.hypot(*mean))
