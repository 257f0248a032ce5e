"""Which device the model is computed on, and in which precision.

What the CPU computes in is tried: the towers' matrix product, once in each precision, and its result looked at.
A list of the processor's features would not do, since it says nothing of the kernels: on a CPU without VNNI instructions
the int8 product raises nothing and is wrong, because oneDNN adds its products in pairs of 16 bits there.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vdx_udf.encoder import towers
from vdx_udf.errors import ModelError

NEEDS = {"bfloat16": "AVX512 or AVX-NE-CONVERT (on ARM: BF16)", "int8": "VNNI or AMX"}
_SHAPE = 32, 256, 64  # rows, inputs, outputs
_TOLERANCE = 0.01  # of the exact value; bfloat16 rounds to 0.004


def choose_device(name: str | None) -> torch.device:
    """The device of that name; none: the first GPU, else the CPU. Raises ModelError for one that is not here."""
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= gpus):
        raise ModelError(f"device {name!r} is not here: write cpu, or cuda:N for one of this machine's {gpus} GPUs")
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """`auto` becomes the fastest precision that the device computes in and that keeps a cosine of 0.999 to float32.

    Raises ModelError for one that the device does not compute in.
    """
    if device.type == "cuda":
        if wanted == "int8":
            raise ModelError("int8 is for CPUs; on a GPU use float16, bfloat16 or float32")
        return "float16" if wanted == "auto" else wanted
    best = "bfloat16" if wanted != "float32" and has_bfloat16_units() else "float32"
    if wanted == "auto":
        return best
    if wanted == "float16":
        raise ModelError(f"float16 is for GPUs; on this CPU use auto, which is {best} here")
    if wanted != "float32" and (lacking := fault(wanted)):
        raise ModelError(
            f"{wanted} needs a CPU with {NEEDS[wanted]} instructions, which this one lacks: {lacking}; use auto, which"
            f" is {best} here"
        )
    return wanted


def check_precision(wanted: str, devices: Sequence[str]) -> None:
    """Raises ModelError if one of the devices (none: the first GPU, else the CPU) does not compute in this precision.

    A GPU need not be here yet: a container's image is built without one.
    """
    for name in devices or (None,):
        choose_precision(wanted, torch.device("cuda") if name and name.startswith("cuda") else choose_device(name))


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
