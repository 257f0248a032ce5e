"""Blocks whose matrix products take 8 bits a number: twice the operations a second of bfloat16, with a cosine above 0.999.

Three kinds of numbers enter a product, and each is rounded in its own way:

  what a LayerNorm gives   equally wide for every token, so one step for all, measured once; the LayerNorm's weights are part of
                           the matrix. A column with massive activations (Sun et al. 2024) enters as several that share it
                           (outlier channel splitting, Zhao et al. 2019), so that the step stays that of the others
  what attention gives     as wide as what each token looks at: a step per token, by which the product's rows are multiplied
  what the activation      a step per token, too, since a few neurons fire for a few tokens only; and because nothing is below
  gives                    the activation's least value, nearly all numbers of 8 bits are above zero

So a vector does not depend on what else is in its batch. Without VNNI or AMX the weights have fewer steps, see adds_in_16_bits.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from vdx_udf.encoder.towers import PACK_ROWS, Block, Blocks, Matrix, Parts

_dnn8 = torch.ops.onednn
_TINY = 1e-30
_LEAST = -0.17  # of GELU, and of QuickGELU -0.164
_ZERO = 16  # which number of 8 bits stands for zero in what the activation gives
_ABOVE = 238  # and the steps above it; one is spare, to round up
_MASSIVE = 2.5  # times the median of all columns' largest: a column above this is split
_SPLIT = 1.0  # times that median: what a part of it holds
_MASSIVE_WEIGHT = 16.0  # times the root mean square of its output's weights
_SAMPLE = 512  # tokens that steps are measured on
_CLIP = 4.0  # how much more than rounding it counts that a number is cut: others than those measured may be larger


class Range(NamedTuple):
    """What 8 bits hold after a LayerNorm without its weights: the largest value, and the parts of massive columns."""

    most: float
    parts: dict[int, int]


class Ranges(NamedTuple):
    """Those of a block's two LayerNorms."""

    qkv: Range
    up: Range


class QuantizedLinear:
    """x @ weight.T + bias with int8 weights, one scale per output, for uint8 x that stand for (x - zero) * step.

    Gives `kind`. `narrow`: weights are so small that no two products that lie side by side add up to more than 16 bits.
    """

    def __init__(self, matrix: Matrix, kind: torch.dtype, step: float = 1.0, zero: int = 128, narrow: bool | None = None):
        weight, self._bias = matrix
        self._kind, self._step, self._zero = kind, step, zero
        self._scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        if adds_in_16_bits() if narrow is None else narrow:
            pairs = F.pad(weight.abs(), (0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(dim=2)
            self._scales = self._scales.maximum(pairs.amax(dim=1) / 128)  # 255 * 128 < 2**15
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._weight = _dnn8.qlinear_prepack(
            (weight / self._scales[:, None]).round().to(torch.int8), [PACK_ROWS, weight.shape[1]]
        )

    def __call__(self, x: Tensor, after: tuple[str, str] = ("none", "")) -> Tensor:
        return _dnn8.qlinear_pointwise(
            x, self._step, self._zero, self._weight, self._scales, self._zeros, self._bias, 1.0, 0, self._kind,
            after[0], [], after[1],
        )  # fmt: skip


@cache
def adds_in_16_bits() -> bool:
    """Whether this processor adds products of 8 bits two by two in 16 bits and those in 32: without VNNI or AMX it does."""
    most = torch.full((1, 64), 127.0)
    product = QuantizedLinear((most, None), torch.float32, narrow=False)(to_8_bits(most.clone()))
    return abs(float(product) - 64 * 127**2) > 1


def to_8_bits(x: Tensor) -> Tensor:
    """Numbers of -128 to 127 as uint8 around 128: for signed ones oneDNN has no fast kernel. Overwrites x."""
    return x.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(128)  # not cast to uint8: that takes ten times as long


class _NormedLinear:
    """A LayerNorm and the product after it."""

    def __init__(self, norm: nn.LayerNorm, matrix: Matrix, kind: torch.dtype, held: Range):
        (weight, bias), (most, parts) = matrix, held
        self._shape, self._eps = norm.normalized_shape, norm.eps
        self._scale = torch.full(self._shape, 127 / most)
        for column, count in parts.items():
            self._scale[column] /= count
        self._again = [column for column, count in parts.items() for _ in range(count - 1)]
        folded = weight * norm.weight
        folded = torch.cat([folded, folded[:, self._again]], dim=1)
        shift = weight @ norm.bias
        self._linear = QuantizedLinear((folded, shift if bias is None else bias + shift), kind, most / 127)

    def __call__(self, x: Tensor, after: tuple[str, str] = ("none", "")) -> Tensor:
        x = to_8_bits(F.layer_norm(x, self._shape, self._scale, None, self._eps).clamp_(-127, 127))
        return self._linear(torch.cat([x, x[:, self._again]], dim=1) if self._again else x, after)


class _ByToken:
    """The product of numbers with a step for each token; `zero` is what stands for 0 in uint8.

    Outputs with a massive weight, from which massive activations come, are computed in `kind`.
    """

    def __init__(self, matrix: Matrix, kind: torch.dtype, zero: int = 128):
        weight, bias = matrix
        self._linear, self._below = QuantizedLinear((weight, None), kind, zero=zero), 128 - zero
        self._bias = (torch.zeros(len(weight)) if bias is None else bias).to(kind)
        massive = weight.abs().amax(dim=1) > _MASSIVE_WEIGHT * weight.square().mean(dim=1).sqrt()
        self._wide, self._wide_weight = massive.nonzero().flatten(), weight[massive].T.to(kind)

    def plus(self, x: Tensor, steps: Tensor, other: Tensor) -> Tensor:
        """x @ weight.T + bias + other; overwrites x."""
        wide = x @ self._wide_weight if len(self._wide) else None
        x.div_(steps)
        found = self._linear(to_8_bits(x.sub_(self._below) if self._below else x)).mul_(steps)
        if wide is not None:
            found[:, self._wide] = wide
        return found.add_(other).add_(self._bias)


class QuantizedBlock:
    """As towers.Block, with 8 bits in the products; `kind`, float32 or bfloat16, is what else is computed in."""

    def __init__(self, block: ResidualAttentionBlock, kind: torch.dtype, ranges: Ranges):
        parts = Parts(block)
        self.heads = parts.heads
        self._activation = parts.activation
        self.qkv = _NormedLinear(block.ln_1, parts.qkv, kind, ranges.qkv)
        self._up = _NormedLinear(block.ln_2, parts.up, kind, ranges.up)
        self._out, self._down = _ByToken(parts.out, kind), _ByToken(parts.down, kind, _ZERO)
        self._least_step = parts.factor * -_LEAST / _ZERO

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        steps = attended.abs().amax(dim=1, keepdim=True).div_(126).clamp_(min=_TINY)  # not 127: bfloat16 may round up
        x = self._out.plus(attended, steps, x)
        active = self._up(x, self._activation)
        steps = active.amax(dim=1, keepdim=True).div_(_ABOVE).clamp_(min=self._least_step)
        return self._down.plus(active, steps, x)


def blocks(transformer: nn.Module, kind: torch.dtype, ranges: list[Ranges] | None) -> Blocks:
    """A transformer in `kind`, with products of 8 bits where ranges were measured."""
    if ranges is None:
        return Blocks([Block(block, kind) for block in transformer.resblocks], kind)
    pairs = zip(transformer.resblocks, ranges, strict=True)
    return Blocks([QuantizedBlock(block, kind, each) for block, each in pairs], kind)


def measured(transformer: nn.Module, run: Callable[[], None]) -> list[Ranges]:
    """The ranges of each block's numbers while `run` has open_clip's own modules compute in float32."""
    seen: list[Ranges] = [Ranges([], []) for _ in transformer.resblocks]

    def norm(into: list[Tensor]) -> Callable:
        return lambda module, inputs, output: into.append(
            _rows(F.layer_norm(inputs[0], module.normalized_shape, eps=module.eps))
        )

    with ExitStack() as hooks:
        for block, into in zip(transformer.resblocks, seen, strict=True):
            hooks.callback(block.ln_1.register_forward_hook(norm(into.qkv)).remove)
            hooks.callback(block.ln_2.register_forward_hook(norm(into.up)).remove)
        run()
    return [Ranges(*(_held(_sample(torch.cat(rows))) for rows in each)) for each in seen]


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).clone()


def _sample(rows: Tensor) -> Tensor:
    return rows[:: -(-len(rows) // _SAMPLE)]


def _held(normed: Tensor) -> Range:
    """The range with the least error: that of rounding is step**2 / 12, that of cutting is measured."""
    most = normed.abs().amax(dim=0)
    usual = float(most.median())
    massive = (most > _MASSIVE * usual).nonzero().flatten().tolist()
    parts = {column: math.ceil(most[column] / (_SPLIT * usual)) for column in massive}
    for column, count in parts.items():
        normed[:, column] /= count
    values, largest = normed.abs(), max(float(normed.abs().max()), 1e-3)

    def error(most: float) -> float:
        return (most / 127) ** 2 / 12 + _CLIP * float(F.relu(values - most).square().mean())

    return Range(min((largest * share for share in torch.linspace(0.3, 1.05, 16).tolist()), key=error), parts)
