"""CLIP's transformer towers on a CPU, as fast as its matrix units allow: oneDNN's kernels with weights packed once.

The same mathematics as open_clip's modules, from whose weights the towers are built, with what does not change a
vector left out: texts lie end to end without padding, and the last block is computed only for the one token of each
input that becomes its vector.
"""

from collections.abc import Callable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import LayerScale, QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

_dnn = torch.ops.mkldnn
QUICK = 1.702  # QuickGELU(x) = x * sigmoid(1.702 x)
PACK_ROWS = 1024  # oneDNN chooses a weight's layout for about so many rows of input

Matrix = tuple[Tensor, Tensor | None]  # a linear layer's weight (out, in) and bias (out,)


def can_pack(transformer: nn.Module) -> bool:
    """Whether every block is one that Blocks computes: pre-norm, plain attention, GELU or QuickGELU."""
    return all(
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and block.attn.in_proj_weight is not None
        and (type(block.mlp.gelu) is QuickGELU or (type(block.mlp.gelu) is nn.GELU and block.mlp.gelu.approximate == "none"))
        for block in transformer.resblocks
    )


class Linear:
    """x @ weight.T + bias in float32 or bfloat16."""

    def __init__(self, matrix: Matrix, kind: torch.dtype):
        weight, bias = matrix
        self._weight = _dnn._reorder_linear_weight(weight.to(kind).contiguous(), PACK_ROWS)
        self._bias = None if bias is None else bias.to(kind)

    def __call__(self, x: Tensor, after: tuple[str, str] = ("none", "")) -> Tensor:
        return _dnn._linear_pointwise(x, self._weight, self._bias, after[0], [], after[1])

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return _dnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")


class Norm:
    """A LayerNorm; parameters stay float32 whatever x is."""

    def __init__(self, norm: nn.LayerNorm):
        self._shape, self._eps = norm.normalized_shape, norm.eps
        self._weight, self._bias = norm.weight.detach().clone(), norm.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._shape, self._weight, self._bias, self._eps)


class Block:
    """One residual attention block over tokens that lie end to end, (tokens, width), in float32 or bfloat16."""

    def __init__(self, block: ResidualAttentionBlock, kind: torch.dtype):
        parts = Parts(block)
        self.heads = parts.heads
        self._activation = parts.activation
        self._norm_1, self._norm_2 = Norm(block.ln_1), Norm(block.ln_2)
        self._qkv, self._out, self._up, self._down = (
            Linear(matrix, kind) for matrix in (parts.qkv, parts.out, parts.up, parts.down)
        )

    def qkv(self, x: Tensor) -> Tensor:
        return self._qkv(self._norm_1(x))

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self._out.plus(attended, x)
        return self._down.plus(self._up(self._norm_2(x), self._activation), x)


class Parts:
    """A block's four matrices and the activation between the last two, as the products take them."""

    def __init__(self, block: ResidualAttentionBlock):
        quick = type(block.mlp.gelu) is QuickGELU
        # swish(y) = y * sigmoid(y), which with y = 1.702 x is 1.702 times QuickGELU(x): the weights take the factor.
        self.activation = ("swish", "") if quick else ("gelu", "none")
        self.factor = QUICK if quick else 1.0
        attention, mlp = block.attn, block.mlp
        self.heads = attention.num_heads
        self.qkv = _matrix(attention.in_proj_weight, attention.in_proj_bias)
        self.out = _matrix(attention.out_proj.weight, attention.out_proj.bias, scale=block.ls_1)
        self.up = _matrix(mlp.c_fc.weight * self.factor, mlp.c_fc.bias * self.factor)
        self.down = _matrix(mlp.c_proj.weight / self.factor, mlp.c_proj.bias, scale=block.ls_2)


def _rounded(rows: int) -> int:
    """So many rows to compute with for these: oneDNN keeps kernels for each number it meets, 1.5 MB of them a number."""
    step = min(32, max(4, 1 << rows.bit_length() >> 4))
    return -(-rows // step) * step


def _matrix(weight: Tensor, bias: Tensor | None, scale: nn.Module | None = None) -> Matrix:
    if isinstance(scale, LayerScale):
        weight, bias = weight * scale.gamma[:, None], None if bias is None else bias * scale.gamma
    return weight.detach(), None if bias is None else bias.detach()


class Blocks:
    """A transformer. `kind` is the dtype of x and of everything but the products of blocks that round further."""

    def __init__(self, blocks: list, kind: torch.dtype):
        """`blocks`: each a Block or another with its `heads`, `qkv` and `rest`."""
        self._blocks, self.kind = blocks, kind

    def __call__(self, x: Tensor, attention: Callable[[Tensor, int], Tensor], kept: Tensor) -> Tensor:
        """From (tokens, width) to (kept, width): the last block's output for the tokens numbered in `kept`."""
        for number, block in enumerate(self._blocks, 1):
            attended = attention(block.qkv(x), block.heads)
            if number == len(self._blocks):
                x, attended = x[kept], attended[kept]
            x = block.rest(x, attended)
        return x


def _attend(qkv: Tensor, inputs: int, heads: int, causal: bool) -> Tensor:
    """Attention within each of `inputs` equally long sequences: (inputs * length, 3 * width) to (.., width)."""
    tokens, width = len(qkv), qkv.shape[1] // 3
    q, k, v = qkv.view(inputs, tokens // inputs, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    if qkv.dtype == torch.bfloat16 and not causal:  # torch's fused kernel does not use the matrix units here: 1.5 times slower
        attended = (q @ k.transpose(2, 3)).mul_((width // heads) ** -0.5).softmax(dim=3) @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return attended.transpose(1, 2).reshape(tokens, width)


class ImageTower:
    """An open_clip VisionTransformer."""

    @staticmethod
    def fits(visual: nn.Module) -> bool:
        return (
            type(visual) is VisionTransformer
            and visual.attn_pool is None
            and visual.pool_type == "tok"
            and visual.proj is not None
            and can_pack(visual.transformer)
        )

    def __init__(self, visual: VisionTransformer, blocks: Blocks, mean: Sequence[float], std: Sequence[float]):
        self._blocks, kind = blocks, blocks.kind
        self._patch = visual.patch_size[0]
        # The weights take the normalisation: with x = pixel - 128, which bfloat16 holds exactly,
        # (pixel / 255 - mean) / std = x / (255 std) + (128 / 255 - mean) / std.
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        weight = visual.conv1.weight.detach()
        bias = (weight * (128 / 255 - mean) / std).sum(dim=(1, 2, 3))
        self._embed = Linear(((weight / (255 * std)).flatten(1), bias), kind)
        self._class, self._position = visual.class_embedding.detach().to(kind), visual.positional_embedding.detach().to(kind)
        self._before = nn.Identity() if isinstance(visual.ln_pre, nn.Identity) else Norm(visual.ln_pre)
        self._after, self._project = Norm(visual.ln_post), visual.proj.detach().to(kind)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (N, 3, H, W), to (N, dimension)."""
        count, side = len(pixels), self._patch
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        patches = pixels.view(count, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(count * rows * columns, -1).to(self._blocks.kind) - 128
        x = self._embed(patches).view(count, rows * columns, -1)
        x = torch.cat([self._class.expand(count, 1, -1), x], dim=1) + self._position
        tokens = x.shape[1]
        x = self._before(x).view(count * tokens, -1)
        x = self._blocks(
            x, lambda qkv, heads: _attend(qkv, count, heads, causal=False), torch.arange(0, count * tokens, tokens)
        )
        return self._after(x) @ self._project


class TextTower:
    """The text tower of an open_clip CLIP that is causal and pools at the end-of-text token, its last one."""

    @staticmethod
    def fits(model: nn.Module) -> bool:
        return can_pack(model.transformer)

    def __init__(self, model: open_clip.CLIP, blocks: Blocks):
        self._blocks, kind = blocks, blocks.kind
        self._embedding = model.token_embedding.weight.detach().to(kind)
        self._position = model.positional_embedding.detach().to(kind)
        self._after, self._project = Norm(model.ln_final), model.text_projection.detach().to(kind)

    def __call__(self, texts: list[Tensor]) -> Tensor:
        """Token numbers, int64 (length,) each, the end-of-text token last, to (N, dimension)."""
        lengths = torch.tensor([len(tokens) for tokens in texts])
        order = lengths.argsort(stable=True)
        sizes, counts = lengths.unique(return_counts=True)  # sorted, as `order` is
        groups = list(zip((sizes * counts).tolist(), counts.tolist(), strict=True))
        positions = torch.cat([torch.arange(size).repeat(count) for size, count in zip(sizes, counts, strict=True)])
        x = self._embedding[torch.cat([texts[row] for row in order])] + self._position[positions]
        spare = _rounded(len(x)) - len(x)  # rows of zeros that nothing attends to
        ends = lengths[order].cumsum(0) - 1

        def attention(qkv: Tensor, heads: int) -> Tensor:
            *parts, rest = qkv.split([*(tokens for tokens, _ in groups), spare])
            attended = [_attend(part, count, heads, causal=True) for part, (_, count) in zip(parts, groups, strict=True)]
            return torch.cat([*attended, rest[:, : rest.shape[1] // 3]])

        x = self._blocks(F.pad(x, (0, 0, 0, spare)), attention, F.pad(ends, (0, _rounded(len(ends)) - len(ends))))
        vectors = torch.empty(len(texts), self._project.shape[1])
        vectors[order] = (self._after(x) @ self._project)[: len(texts)].float()
        return vectors
