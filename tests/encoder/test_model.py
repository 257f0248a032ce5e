"""The towers, precisions and preprocessing against open_clip's own modules, on models and pictures of many shapes."""

import io
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.conftest import needs
from vdx_udf.encoder import gate, processor, quantized, towers
from vdx_udf.encoder.decoding import decode
from vdx_udf.encoder.model import Clip
from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.encoder.preprocess import Preprocess
from vdx_udf.encoder.processor import candidates, check_precision
from vdx_udf.encoder.towers import Block, ImageTower, TextTower
from vdx_udf.errors import ModelError
from vdx_udf.settings import JPEG_SCALE, PARITY, PRECISIONS, WEIGHTS_HASHES

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)


def cosines(ours, theirs) -> torch.Tensor:
    return F.cosine_similarity(torch.as_tensor(ours).flatten(1).float(), torch.as_tensor(theirs).flatten(1).float())


def tower_pair(model: torch.nn.Module, precision: str) -> tuple[TextTower, ImageTower]:
    """Both towers, the ranges of int8 measured on other inputs than the tests'."""
    kind, found = processor.kind_of(precision), [None, None]
    if precision == "int8":
        cut, _ = random_texts(16, seed=50)
        pixels = normalised(random_pixels(6, seed=51))
        texts = lambda: [model.encode_text(F.pad(tokens, (0, 32 - len(tokens)))[None]) for tokens in cut]  # noqa: E731
        found = [
            quantized.measured(model.transformer, texts),
            quantized.measured(model.visual.transformer, lambda: model.encode_image(pixels)),
        ]
    texts, images = (
        quantized.blocks(tower.transformer, kind, each) for tower, each in zip((model, model.visual), found, strict=True)
    )
    return TextTower(model, texts), ImageTower(model.visual, images, MEAN, STD)


def random_pixels(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels / 255 - mean) / std


def small_clip(quick_gelu: bool = False, **vision) -> torch.nn.Module:
    torch.manual_seed(1)
    vision = {"image_size": 48, "patch_size": 16, "width": 128, "layers": 3, "head_width": 32, **vision}
    text = {"context_length": 32, "vocab_size": 500, "width": 96, "heads": 3, "layers": 3}
    model = open_clip.CLIP(64, vision, text, quick_gelu=quick_gelu).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # as a trained model: no norm is the identity, no bias zero
        if parameter.dim() == 1 and "logit" not in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def random_texts(count: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Token numbers of many lengths, cut and padded to the context."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 33, (count,), generator=generator).tolist()
    cut = [torch.cat([torch.randint(1, 498, (n - 1,), generator=generator), torch.tensor([499])]) for n in lengths]
    return cut, torch.stack([F.pad(tokens, (0, 32 - len(tokens))) for tokens in cut])


VARIANTS = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "layer scale": {"ls_init_value": 0.3},
    "no norm before": {"no_ln_pre": True},
    "norm after pooling": {"final_ln_after_pool": True},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_towers_compute_what_open_clip_computes(variant, precision):
    needs(precision)
    model = small_clip(**VARIANTS[variant])
    assert TextTower.fits(model)
    assert ImageTower.fits(model.visual)
    cut, padded = random_texts(40, seed=3)
    pixels = random_pixels(9, seed=4)
    with torch.inference_mode():
        texts, images = tower_pair(model, precision)
        assert cosines(texts(cut), model.encode_text(padded)).min() > PARITY[precision]
        assert cosines(images(pixels), model.encode_image(normalised(pixels))).min() > PARITY[precision]
        one_by_one = torch.cat([texts([tokens]) for tokens in cut])
        assert cosines(one_by_one, model.encode_text(padded)).min() > PARITY[precision]


def make_massive(block, seen: list[torch.Tensor], token: int, times: float) -> None:
    """Has one neuron of a block's MLP fire for the token at one place and write `times` what is usual to three columns.

    As trained towers do (Sun et al. 2024). `seen`: what the block's second LayerNorm gives, (tokens, width) each.
    """
    here, others = (
        torch.stack([x[token] for x in seen]),
        torch.cat([x[[*range(token), *range(token + 1, len(x))]] for x in seen]),
    )
    direction = here.mean(dim=0) - others.mean(dim=0)
    middle = ((here @ direction).min() + (others @ direction).max()) / 2
    assert (here @ direction).min() > (others @ direction).max()
    reach = (here @ direction).mean() - middle
    block.mlp.c_fc.weight.data[7], block.mlp.c_fc.bias.data[7] = 20 * direction / reach, -20 * middle / reach
    block.mlp.c_proj.weight.data[:, 7] = 0
    block.mlp.c_proj.weight.data[[3, 50, 71], 7] = torch.tensor([1.0, -0.7, 0.4]) * times / 20


@pytest.mark.parametrize("times", [100, 1000])
def test_int8_stands_massive_activations(times):
    """A few columns of the residual stream are far larger than the others, for one token of each input."""
    needs("int8")
    model = small_clip()
    cut, padded = random_texts(40, seed=3)
    pixels = random_pixels(9, seed=4)
    with torch.inference_mode():
        for tower, places, run, token in (
            (model.transformer, model.positional_embedding, lambda: [model.encode_text(each[None]) for each in padded], 0),
            (
                model.visual.transformer,
                model.visual.positional_embedding,
                lambda: [model.encode_image(each[None]) for each in normalised(pixels)],
                4,
            ),
        ):
            places.data[token] += 10 * torch.randn_like(places[token])  # a neuron can tell it from all others
            block, seen = tower.resblocks[0], []
            hook = block.ln_2.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output[0]))
            run()
            hook.remove()
            make_massive(block, seen, token, times)
            after = []
            hook = tower.resblocks[1].register_forward_pre_hook(lambda module, inputs, after=after: after.append(inputs[0][0]))
            run()
            hook.remove()
            assert all(x[token].abs().max() > 0.5 * times * x.abs().median() for x in after)
            assert all(x.abs().max() == x[token].abs().max() for x in after)
        texts, images = tower_pair(model, "int8")
        assert cosines(texts(cut), model.encode_text(padded)).min() > PARITY["int8"]
        assert cosines(images(pixels), model.encode_image(normalised(pixels))).min() > PARITY["int8"]


def test_a_vector_in_int8_does_not_depend_on_its_batch():
    needs("int8")
    texts, images = tower_pair(small_clip(), "int8")
    cut, _ = random_texts(20, seed=5)
    pixels = random_pixels(6, seed=6)
    with torch.inference_mode():
        assert cosines(torch.cat([texts([each]) for each in cut]), texts(cut)).min() > 0.99999
        assert cosines(torch.cat([images(each[None]) for each in pixels]), images(pixels)).min() > 0.99999


def test_texts_are_computed_in_few_sizes(monkeypatch):
    tower, sizes = tower_pair(small_clip(), "float32")[0], set()
    plain = Block.rest
    monkeypatch.setattr(Block, "rest", lambda block, x, attended: sizes.add(len(x)) or plain(block, x, attended))
    with torch.inference_mode():
        for count in range(1, 60):
            tower(random_texts(count, seed=count)[0])
    assert len(sizes) < 60  # of about 118: every number of tokens and of texts
    assert all(size % 4 == 0 for size in sizes)


@pytest.mark.parametrize(
    "vision",
    [{"pool_type": "avg"}, {"attentional_pool": True}, {"qk_norm": True}, {"act_kwargs": {"approximate": "tanh"}}],
    ids=str,
)
def test_a_tower_that_is_not_understood_is_left_to_open_clip(vision):
    assert not ImageTower.fits(small_clip(**vision).visual)


def test_a_resnet_is_left_to_open_clip(clip):
    assert type(clip._images).__name__ == "_ModuleImages"  # vdx-tiny sees through a ModifiedResNet
    assert type(clip._texts) is TextTower


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_below_its_gate_gives_way_to_float32(precision, monkeypatch, caplog):
    """A tower that computes something else is noticed when the model is loaded, and not used."""
    needs(precision)
    monkeypatch.setattr(TextTower, "__call__", lambda self, texts: torch.ones(len(texts), 512))
    clip = Clip("vdx-tiny", precision)
    assert clip.precision == "float32"
    assert f"vdx-tiny in not {precision}: a cosine of" in caplog.text
    assert clip.precision_reason.startswith(f"not {precision}: a cosine of")
    assert clip.precision_reason.endswith("; float32 by open_clip's own modules")
    monkeypatch.undo()
    assert (
        cosines(clip.encode_texts(["a red circle"]), Clip("vdx-tiny", "float32").encode_texts(["a red circle"])).min() > 0.99999
    )


def test_what_the_processor_computes_in_is_chosen_and_nothing_else():
    """Which that is under a mask, tests/encoder/test_machines.py says."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    automatic = candidates("auto", cpu)
    assert automatic[-1] == "float32"
    assert ("bfloat16" in automatic) == processor.has_bfloat16_units()
    assert ("int8" in automatic) == processor.gains_by_8_bits() == (automatic[0] == "int8")
    assert candidates("float32", cpu) == ["float32"]
    best = " or ".join(automatic)
    for precision, instructions in processor.NEEDS.items():
        if fault := processor.fault(precision):
            sentence = f"{precision} needs a CPU with {instructions} instructions, which this one lacks: {fault}; use auto, which is {best} here"
            with pytest.raises(ModelError, match=re.escape(sentence)):
                candidates(precision, cpu)
        else:
            assert candidates(precision, cpu)[0] == precision
    with pytest.raises(ModelError, match=f"float16 is for GPUs; on this CPU use auto, which is {best} here"):
        candidates("float16", cpu)
    assert candidates("auto", gpu) == ["float16", "float32"]
    with pytest.raises(ModelError, match="int8 is for CPUs"):
        candidates("int8", gpu)
    assert set(PRECISIONS) == {"auto", *PARITY}


def test_a_precision_is_checked_on_every_device_that_is_named():
    check_precision("float16", ["cuda:0", "cuda:7"])  # GPUs that are not here yet
    with pytest.raises(ModelError, match="float16 is for GPUs"):
        check_precision("float16", ["cuda:0", "cpu"])
    with pytest.raises(ModelError, match="int8 is for CPUs"):
        check_precision("int8", ["cpu", "cuda"] if not processor.fault("int8") else ["cuda"])


def test_without_the_packed_product_open_clips_modules_compute(monkeypatch):
    """As in a build of torch without oneDNN: its operations are not there."""
    monkeypatch.setattr(towers, "_dnn", torch.ops.vdx_has_no_such_operations)
    processor.fault.cache_clear()
    try:
        assert "has no attribute" in processor.fault("float32")
        clip = Clip("vdx-tiny", "float32")
        assert type(clip._texts).__name__ == "_ModuleTexts"
    finally:
        processor.fault.cache_clear()
    monkeypatch.undo()
    texts = ["a red circle", "two blue stars"]
    assert cosines(clip.encode_texts(texts), Clip("vdx-tiny", "float32").encode_texts(texts)).min() > 0.99999


def test_a_verdict_is_remembered_and_not_believed_blindly(tmp_path, monkeypatch):
    """For the same weights and processor the gate is passed once; weights that changed, or a file that is damaged, pass it again."""
    judged, plain = [], gate.kept
    monkeypatch.setattr(gate, "kept", lambda found, exact: judged.append(len(exact)) or plain(found, exact))
    file = tmp_path / "encoder.verdict"
    first = Clip("vdx-tiny", verdicts=file)
    again = Clip("vdx-tiny", verdicts=file)
    assert judged == ([3, 2] if candidates("auto", first.device) == ["float32"] else [64, 32])  # float32 alone needs no gate
    assert (again.precision, again.parity, again.precision_reason) == (first.precision, first.parity, first.precision_reason)
    file.write_text(file.read_text().replace(first.weights_hash, "0123456789abcdef"))
    assert Clip("vdx-tiny", verdicts=file).precision_reason == first.precision_reason
    for content in ("", "{}", "[]", "null", '{"of": 1}', file.read_text()[:-9]):
        file.write_text(content)
        assert Clip("vdx-tiny", verdicts=file).precision == first.precision
    assert len(judged) == 16
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.verdict"]


def test_the_gate_has_inputs_of_all_kinds():
    inputs, samples = gate.inputs((48, 48)), gate.samples((48, 48))
    assert (len(set(inputs.texts)), len(inputs.pictures)) == (64, 32)
    assert not set(inputs.texts) & set(samples.texts)
    assert (
        len({picture.numpy().tobytes() for picture in [*inputs.pictures, *samples.pictures]}) >= 40
    )  # black and white are in both
    spread = inputs.pictures.float().flatten(1).std(dim=1)
    assert spread.min() == 0
    assert spread.max() > 120


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(ModelError, match=f"device '{device}' is not here: write cpu, or cuda:N for one of this machine's"):
        Clip("vdx-tiny", device=device)


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colour with some noise, as a photo has."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (max(1, size[1] // 16), max(1, size[0] // 16), 3), dtype=np.uint8))
    noise = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(small.resize(size, Image.Resampling.BICUBIC)) + noise).clip(0, 255).astype(np.uint8))


def open_clips_pixels(config: dict, image: Image.Image) -> np.ndarray:
    """What open_clip's own preprocessing gives, before it normalises, in levels of 0 to 255."""
    return 255 * image_transform_v2(PreprocessCfg(**config, mean=(0, 0, 0), std=(1, 1, 1)), is_train=False)(image).numpy()


@settings(max_examples=60, deadline=None)
@given(
    strategies.integers(5, 900),
    strategies.integers(5, 900),
    strategies.sampled_from([224, 64, 336]),
    strategies.sampled_from(["bicubic", "bilinear"]),
    strategies.integers(0, 9),
)
def test_pictures_of_any_shape_become_open_clips_pixels(width, height, size, interpolation, seed):
    config = {"size": size, "interpolation": interpolation}
    image = photo((width, height), seed)
    ours, theirs = Preprocess(config)(image).numpy(), open_clips_pixels(config, image)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    difference = np.abs(ours - theirs)
    assert difference.max() < 2.1
    assert difference.mean() < 0.25


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize(
    "config", [{"size": 224}, {"size": 96, "resize_mode": "longest"}, {"size": (64, 64), "resize_mode": "squash"}]
)
def test_other_modes_are_exactly_open_clips(mode, config):
    image = photo((311, 207), 5).convert(mode)
    assert np.abs(Preprocess(config)(image).numpy() - open_clips_pixels(config, image)).max() < 0.01


@pytest.mark.parametrize("size", [(640, 480), (1200, 1600), (4000, 3000)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_scaled_jpegs_keep_their_pixels(size, orientation):
    """The default scale changes the pixels by less than one level of 255 on average, at any size and orientation."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    photo(size, 6).save(buffer, "JPEG", quality=90, exif=exif)
    seen = Preprocess({"size": 224})
    whole = seen(decode(buffer.getvalue())).float()
    scaled = decode(buffer.getvalue(), JPEG_SCALE * 224)
    assert min(scaled.size) >= JPEG_SCALE * 224
    assert (scaled.size == decode(buffer.getvalue()).size) == (min(size) < 4 * 224)
    assert (seen(scaled) - whole).abs().mean() < 1
    at_target = decode(buffer.getvalue(), 224)
    assert 224 <= min(at_target.size) <= min(scaled.size)
    assert cosines(seen(at_target)[None] / 255 - 0.5, whole[None] / 255 - 0.5) > 0.98


def test_weights_are_those_that_were_recorded():
    assert Clip("vdx-tiny").weights_hash == WEIGHTS_HASHES["vdx-tiny"]
    with pytest.raises(ModelError, match=r"'vdx-tiny' hash to \w{16}, not to 0123456789abcdef as recorded: not used"):
        Clip("vdx-tiny", weights_hash="0123456789abcdef")


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    """A pickle that is no mere tensors: refused, and what it asks for does not happen."""
    shutil.copy(TINY_FOLDER / "open_clip_config.json", tmp_path)
    with open(tmp_path / "open_clip_pytorch_model.bin", "wb") as file:
        pickle.dump(_Touch(tmp_path / "touched"), file)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Clip(f"local-dir:{tmp_path}")
    assert not (tmp_path / "touched").exists()
    pickle.loads((tmp_path / "open_clip_pytorch_model.bin").read_bytes())
    assert (tmp_path / "touched").exists()  # so it would have


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
