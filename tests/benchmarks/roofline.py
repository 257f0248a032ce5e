"""What the machine can do at most: a large matrix product in each precision, and what that means for a model."""

import statistics
import time

import torch

from vdx_udf.encoder import processor
from vdx_udf.encoder.quantized import QuantizedLinear
from vdx_udf.encoder.towers import Linear

_SIDE = 3072


def measured() -> dict[str, float]:
    """Floating-point (or 8-bit) operations per second of a product of two square matrices, by precision that the CPU has."""
    weight = torch.randn(_SIDE, _SIDE)
    found = {}
    for precision in ("float32", *processor.NEEDS):
        if fault := processor.fault(precision):
            print(f"{precision} is left out: {fault}")
            continue
        kind, x = processor.kind_of(precision), torch.randint(0, 256, (_SIDE, _SIDE), dtype=torch.uint8)
        linear = (QuantizedLinear if precision == "int8" else Linear)((weight, None), kind)
        found[precision] = _rate(linear, x if precision == "int8" else x.to(kind))
    return found


def _rate(linear, x: torch.Tensor) -> float:
    linear(x)
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        linear(x)
        seconds.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / statistics.median(seconds)


def text_operations(tokens: float) -> float:
    """Operations for one text of `tokens` tokens in ViT-B/32's text tower: 12 blocks of width 512."""
    return _blocks(12, 512, tokens)


def image_operations() -> float:
    """Operations for one picture in ViT-B/32: 49 patches of 32 x 32 x 3 embedded, then 12 blocks of width 768."""
    return 2 * 49 * 32 * 32 * 3 * 768 + _blocks(12, 768, 50)


def _blocks(layers: int, width: int, tokens: float) -> float:
    # A block: four width x width products of attention and two of width x 4 width, on each token; every pair of tokens
    # meets twice in attention.
    return layers * (2 * 12 * width**2 * tokens + 4 * width * tokens**2)
