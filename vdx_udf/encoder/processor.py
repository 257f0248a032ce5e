"""What this machine's CPU computes in: the towers' matrix product is tried once in each precision and its result looked at.

A list of the processor's features would not do, since it says nothing of the kernels: on a CPU without VNNI instructions
the int8 product raises nothing and is wrong, because oneDNN adds its products in pairs of 16 bits there.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vdx_udf.encoder import towers

NEEDS = {"bfloat16": "AVX512 or AVX-NE-CONVERT (on ARM: BF16)", "int8": "VNNI or AMX"}
_SHAPE = 32, 256, 64  # rows, inputs, outputs
_TOLERANCE = 0.01  # of the exact value; bfloat16 rounds to 0.004


@cache
def fault(precision: str) -> str:
    """What is wrong with the towers' matrix product in this precision on this CPU; empty where it is right."""
    try:
        ours, exact = _product(precision)
    except Exception as refused:  # by the processor, or this build of torch has no such operation
        return f"a matrix product failed ({' '.join(str(refused).split())[:200]})"
    errors = (ours - exact).abs() / exact.abs().clamp(min=1)
    worst = errors.argmax()
    return "" if errors.max() < _TOLERANCE else f"a matrix product gave {ours[worst]:.3g} instead of {exact[worst]:.3g}"


@cache
def has_bfloat16_units() -> bool:
    """Whether bfloat16 is computed by instructions of its own, about twice as fast as float32, and not by way of float32's,
    a third as fast as float32.

    Told by a product of numbers below 2**-126: the instructions of AVX512-BF16, AMX and ARM's BF16 take those for zero
    (Intel SDM, VDPBF16PS and TDPBF16PS; Arm ARM, BFMMLA), float32's do not.
    """
    rows, inputs, outputs = _SHAPE
    tiny, large = torch.full((rows, inputs), 2.0**-130), torch.full((outputs, inputs), 2.0**100)
    return not fault("bfloat16") and not _linear("bfloat16", large, None)(tiny.bfloat16()).any()


def _linear(precision: str, weight: Tensor, bias: Tensor | None) -> towers.Linear | towers.QuantizedLinear:
    kind, linear = towers.arithmetic(precision)
    return linear((weight, bias), kind)


def _product(precision: str) -> tuple[Tensor, Tensor]:
    """Everything that a block asks of a linear layer, float64 (4 * rows * outputs,), and what it should be.

    All factors are whole numbers of 8 bits, which every precision holds exactly, times a power of two; the largest of them
    meet each other, so that sums in too few bits overflow.
    """
    rows, inputs, outputs = _SHAPE
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-127, 128, (n, inputs), generator=generator) for n in (rows, outputs))
    x[0] = weight[0] = weight[:, 0] = 127
    weight, bias = weight / (1 << 16), torch.arange(outputs) / 8
    other = torch.arange(rows * outputs).view(rows, outputs) % 256 / 8
    linear, kind = _linear(precision, weight, bias), towers.arithmetic(precision)[0]
    exact = x.double() @ weight.double().T + bias
    ours = [linear(x.to(kind), after) for after in (("none", ""), ("gelu", "none"), ("swish", ""))]
    ours.append(linear.plus(x.to(kind), other.to(kind)))
    return (
        torch.cat([each.double().flatten() for each in ours]),
        torch.cat([each.flatten() for each in (exact, F.gelu(exact), F.silu(exact), exact + other)]),
    )
