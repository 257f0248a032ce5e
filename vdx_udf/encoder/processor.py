"""Which device the model is computed on, and in which precision.

What the CPU computes in is tried: the towers' matrix product, once in each precision, and its result looked at.
A list of the processor's features would not do, since it says nothing of the kernels: on a CPU without VNNI instructions
the int8 product raises nothing and would be wrong with weights of all 8 bits, because oneDNN adds its products in pairs of 16
bits there; nor of whether such pairs are faster than float32, which differs between processors.
"""

import platform
import time
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vdx_udf.encoder.quantized import QuantizedLinear, adds_in_16_bits, to_8_bits
from vdx_udf.encoder.towers import Linear
from vdx_udf.errors import ModelError

NEEDS = {"bfloat16": "AVX512 or AVX-NE-CONVERT (on ARM: BF16)", "int8": "SSE4.1"}
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


def candidates(wanted: str, device: torch.device) -> list[str]:
    """The precisions to use, the first of them that passes the model's gate: fastest first for `auto`, else from `wanted` on.

    Raises ModelError for one that the device does not compute in.
    """
    if device.type == "cuda":
        if wanted == "int8":
            raise ModelError("int8 is for CPUs; on a GPU use float16, bfloat16 or float32")
        return list(dict.fromkeys(("float16" if wanted == "auto" else wanted, "float32")))
    if wanted == "float32":
        return ["float32"]
    best = ["bfloat16", "float32"] if has_bfloat16_units() else ["float32"]
    automatic = ["int8", *best] if gains_by_8_bits() else best
    if wanted == "auto":
        return automatic
    advice = f"use auto, which is {' or '.join(automatic)} here"
    if wanted == "float16":
        raise ModelError(f"float16 is for GPUs; on this CPU {advice}")
    if lacking := fault(wanted):
        raise ModelError(f"{wanted} needs a CPU with {NEEDS[wanted]} instructions, which this one lacks: {lacking}; {advice}")
    return list(dict.fromkeys((wanted, *best)))


def check_precision(wanted: str, devices: Sequence[str]) -> None:
    """Raises ModelError if one of the devices (none: the first GPU, else the CPU) does not compute in this precision.

    A GPU need not be here yet: a container's image is built without one.
    """
    for name in devices or (None,):
        candidates(wanted, torch.device("cuda") if name and name.startswith("cuda") else choose_device(name))


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
    return not fault("bfloat16") and not Linear((large, None), torch.bfloat16)(tiny.bfloat16()).any()


@cache
def gains_by_8_bits() -> bool:
    """Whether products in int8 are right and fast: by VNNI or AMX, or in less than three quarters of float32's time."""
    # On ARM nobody measured whether oneDNN has a fast kernel for it.
    if platform.machine() not in ("x86_64", "AMD64") or fault("int8"):
        return False
    if not adds_in_16_bits():
        return True
    x, weight = torch.ones(256, 768), torch.ones(3072, 768)
    products = QuantizedLinear((weight, None), torch.float32), Linear((weight, None), torch.float32)
    inputs, taken = (to_8_bits(x.clone()), x), ([], [])
    for _ in range(6):  # in turn; the first of each prepares the kernel
        for product, given, times in zip(products, inputs, taken, strict=True):
            began = time.perf_counter()
            product(given)
            times.append(time.perf_counter() - began)
    return min(taken[0]) < 0.75 * min(taken[1])


def kind_of(precision: str) -> torch.dtype:
    """What towers in this precision compute in on a CPU; in int8 everything but the products of 8 bits."""
    if precision == "int8":
        return torch.bfloat16 if has_bfloat16_units() else torch.float32
    return getattr(torch, precision)


def _product(precision: str) -> tuple[Tensor, Tensor]:
    """Everything that a block asks of a linear layer, float64 (values,), and what it should be.

    All factors are whole numbers of 8 bits, which every precision holds exactly, times a power of two; the largest of them
    meet each other, so that sums in too few bits overflow, and so would sums of other pairs than those side by side.
    """
    rows, inputs, outputs = _SHAPE
    generator = torch.Generator().manual_seed(0)
    most = 64 if precision == "int8" and adds_in_16_bits() else 127
    x, weight = (torch.randint(-n, n + 1, (size, inputs), generator=generator) for n, size in ((127, rows), (most, outputs)))
    x[0], weight[0], weight[:, :2] = 127, most, most
    weight[1, 0::2], weight[1, 1::2] = 127, 1
    weight, bias = weight / (1 << 16), torch.arange(outputs) / 8
    other = torch.arange(rows * outputs).view(rows, outputs) % 256 / 8
    exact = x.double() @ weight.double().T + bias
    expected = [exact, F.gelu(exact), F.silu(exact)]
    if precision == "int8":
        linear, x = QuantizedLinear((weight, bias), torch.float32), to_8_bits(x.float())
    else:
        kind = getattr(torch, precision)
        linear, x = Linear((weight, bias), kind), x.to(kind)
        expected.append(exact + other)
    ours = [linear(x, after) for after in (("none", ""), ("gelu", "none"), ("swish", ""))]
    if precision != "int8":
        ours.append(linear.plus(x, other.to(kind)))
    return tuple(torch.cat([each.double().flatten() for each in parts]) for parts in (ours, expected))
