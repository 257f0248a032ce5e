"""One CLIP model: from a name to unit vectors, the way open_clip computes them."""

import contextlib
import ctypes
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vdx_udf import settings
from vdx_udf.encoder import gate, processor, quantized
from vdx_udf.encoder.hub import cached_first
from vdx_udf.encoder.model_name import SCHEMAS, full_name
from vdx_udf.encoder.preprocess import Preprocess
from vdx_udf.encoder.regions import Level
from vdx_udf.encoder.towers import ImageTower, TextTower
from vdx_udf.encoder.verdict import Verdict
from vdx_udf.errors import ModelError

_OPEN_CLIP_PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_TOWERS = "texts", "images"
_PROBES = 3, 2  # texts and pictures that every load measures; the others once: see verdict.py
log = logging.getLogger("vdx")


class Clip:
    """An open_clip model with its own tokeniser and preprocessing.

    `name` is `vdx-tiny`, `ARCHITECTURE/TAG` as in open_clip (`ViT-B-32/openai`), `ARCHITECTURE/random` (seeded random
    weights), `hf-hub:ORG/NAME` or `local-dir:PATH`. `precision` is one of the settings' PRECISIONS, `device` a torch
    device (default: the first GPU, else the CPU). The attribute `precision` says what was chosen and `precision_reason` why,
    `parity` the least cosine to open_clip in float32 over the gate's texts and pictures, which `verdicts`, a file, remembers
    for the next load. Weights are read as safetensors or, from a pickle, as tensors only. Raises ModelError, also for weights
    that hash to something else than `weights_hash` or what the settings record.
    """

    def __init__(
        self,
        name: str,
        precision: str = settings.PRECISION,
        device: str | None = None,
        weights_hash: str | None = None,
        verdicts: Path | None = None,
    ):
        self.name = name
        self.device = processor.choose_device(device)
        candidates = processor.candidates(precision, self.device)
        self.streams = 2 if self.device.type == "cuda" else 1  # threads that may encode at a time
        try:
            model, tokenizer_name = _create(name, "float32")
        except Exception as error:
            raise ModelError(f"model {name!r} cannot be loaded: {error}") from error
        with ThreadPoolExecutor(1) as beside:  # hashing takes as long as packing
            digest = beside.submit(_hash, model)
            self._tokenize = cached_first(name, lambda: open_clip.get_tokenizer(tokenizer_name))
            self._trims = _can_trim(model)
            self.preprocess = Preprocess(model.visual.preprocess_cfg)
            self.logit_scale = float(model.logit_scale.exp().item())
            remembered = Verdict.recall(verdicts, name, precision, self.device)
            if remembered:
                self._use(model, remembered)
            self.weights_hash = digest.result()
            if (
                not remembered
                or remembered.weights_hash != self.weights_hash
                or self._probed(model) < settings.PARITY[self.precision]
            ):
                self._use(model, self._judged(model, precision, candidates))
                self._verdict.keep(verdicts, name, precision, self.device)
        recorded = weights_hash or settings.WEIGHTS_HASHES.get(name, self.weights_hash)
        if self.weights_hash != recorded:
            raise ModelError(f"the weights of {name!r} hash to {self.weights_hash}, not to {recorded} as recorded: not used")
        self.dimension = self.encode_texts([""]).shape[1]
        del model
        _give_back_memory()  # the float32 weights are packed: 0.3 to 0.6 GB

    def _judged(self, model: nn.Module, wanted: str, candidates: list[str]) -> "Verdict":
        """The first of the candidates that passes the gate, with open_clip's own float32 as what is exact."""
        inputs, refused = gate.inputs(self.preprocess.size), []
        if candidates == ["float32"]:
            inputs = inputs.some(*_PROBES)
        tokens = self.tokens(inputs.texts)
        with torch.inference_mode():
            texts, images = self._reference(model)
            exact = _unit_vectors(partial(gate.in_groups, texts), images, tokens, inputs.pictures)
            for precision in candidates:
                ranges = self._ranges(model, texts, images) if precision == "int8" else {}
                while precision != "int8" or "images" in ranges or (ranges and wanted == "int8"):  # texts alone gain little
                    self._use(model, Verdict(precision, self.weights_hash, ranges=ranges))
                    found = _unit_vectors(self._texts, self._images, tokens, inputs.pictures.to(self.device))
                    kept = [gate.kept(*pair) for pair in zip(found, exact, strict=True)]
                    sentence = _sentence(precision, ranges, kept, inputs)
                    failed = [tower for tower, each in zip(_TOWERS, kept, strict=True) if not _passes(each, precision)]
                    if not failed:
                        reason, parity = "; ".join([*refused, sentence]), min(each.cosine for each in kept)
                        return Verdict(precision, self.weights_hash, parity, reason, ranges)
                    refused.append(f"not {sentence}")
                    log.warning("%s in %s", self.name, refused[-1])
                    ranges = {tower: each for tower, each in ranges.items() if tower not in failed}
                    if not ranges:
                        break
        return Verdict(
            "float32", self.weights_hash, 1.0, "; ".join([*refused, "float32 by open_clip's own modules"]), modules=True
        )

    def _ranges(self, model: nn.Module, texts: Callable, images: Callable) -> dict[str, list[quantized.Ranges]]:
        samples = gate.samples(self.preprocess.size)
        tokens, found = self.tokens(samples.texts), {}
        if self._fits_texts(model):  # one by one: padding would be measured, too
            found["texts"] = quantized.measured(model.transformer, lambda: [texts([each]) for each in tokens])
        if self._fits_images(model):
            found["images"] = quantized.measured(model.visual.transformer, lambda: images(samples.pictures))
        return found

    def _use(self, model: nn.Module, verdict: "Verdict") -> None:
        self._verdict = verdict
        self.precision, self.parity, self.precision_reason = verdict.precision, verdict.parity, verdict.reason
        if verdict.modules:
            model = model.to(self.device)
            self._texts = _ModuleTexts(model, self.device, self._trims)
            self._images = self._module_images(model, "float32", self.device)
        else:
            self._texts, self._images = self._towers(model, verdict)

    def _probed(self, model: nn.Module) -> float:
        """The least cosine to open_clip in float32 over a few of the gate's inputs: whether what was remembered holds."""
        inputs = gate.inputs(self.preprocess.size).some(*_PROBES)
        tokens = self.tokens(inputs.texts)
        with torch.inference_mode():
            exact = _unit_vectors(*self._reference(model), tokens, inputs.pictures)
            found = _unit_vectors(self._texts, self._images, tokens, inputs.pictures.to(self.device))
        return min(float((a * b).sum(dim=1).min()) for a, b in zip(found, exact, strict=True))

    def _reference(self, model: nn.Module) -> tuple[Callable, Callable]:
        """open_clip's own towers in float32, on the CPU."""
        return _ModuleTexts(model, "cpu", self._trims), self._module_images(model, "float32", "cpu")

    def _fits_texts(self, model: nn.Module) -> bool:
        return self._trims and TextTower.fits(model)

    @staticmethod
    def _fits_images(model: nn.Module) -> bool:
        return ImageTower.fits(model.visual)

    def _towers(self, model: nn.Module, verdict: "Verdict") -> tuple[Callable, Callable]:
        # float32 is right without packing, too; another precision was tried when it was chosen.
        precision, ranges, texts, images = verdict.precision, verdict.ranges, None, None
        if self.device.type == "cpu" and not processor.fault(precision):
            kind = processor.kind_of(precision)
            if self._fits_texts(model):
                texts = TextTower(model, quantized.blocks(model.transformer, kind, ranges.get("texts")))
            if self._fits_images(model):
                blocks = quantized.blocks(model.visual.transformer, kind, ranges.get("images"))
                images = ImageTower(model.visual, blocks, self.preprocess.mean, self.preprocess.std)
        if texts and images:
            return texts, images
        if precision == "int8":  # which is for the towers above
            precision = "bfloat16" if processor.has_bfloat16_units() else "float32"
        if precision != "float32":
            model, _ = _create(self.name, precision)
        model = model.to(self.device)
        return (
            texts or _ModuleTexts(model, self.device, self._trims),
            images or self._module_images(model, precision, self.device),
        )

    def _module_images(self, model: nn.Module, precision: str, device: torch.device | str) -> "_ModuleImages":
        return _ModuleImages(model, getattr(torch, precision), device, self.preprocess.mean, self.preprocess.std)

    def stream(self) -> contextlib.AbstractContextManager:
        """What an encoding thread stays in: on a GPU a stream of its own, so that its copies overlap another's computing."""
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else contextlib.nullcontext()

    def tokens(self, texts: list[str]) -> list[Tensor]:
        """Token numbers, int64 (length,) each; cut after the end-of-text token where what follows changes nothing.

        Longer texts than the tower reads are cut by the tokeniser.
        """
        rows = self._tokenize(texts)
        if not self._trims:
            return list(rows)
        ends = (rows.argmax(dim=1) + 1).tolist()  # the end-of-text token has the highest number
        return [row[:end] for row, end in zip(rows, ends, strict=True)]

    def pixels(self, image: Image.Image) -> Tensor:
        """What the model sees of a picture: uint8 (3, H, W), resized and cropped as it was trained."""
        return self.preprocess(image)

    def regions(self, image: Image.Image, levels: list[Level]) -> Iterator[Tensor]:
        """The same of a picture and then of each of its squares, level after level."""
        yield self.pixels(image)
        yield from self.preprocess.tiles(image, levels)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors, float32 (N, dimension)."""
        return self.encode_tokens(self.tokens(texts))

    @torch.inference_mode()
    def encode_tokens(self, tokens: list[Tensor]) -> np.ndarray:
        """Unit vectors, float32 (N, dimension), of texts that went through `tokens`."""
        return _unit(self._texts(tokens)).cpu().numpy()

    @torch.inference_mode()
    def encode_images(self, pixels: list[Tensor]) -> np.ndarray:
        """Unit vectors, float32 (N, dimension), of pictures that went through `pixels`."""
        return _unit(self._images(_moved(torch.stack(pixels), self.device))).cpu().numpy()


def _unit_vectors(texts: Callable, images: Callable, tokens: list[Tensor], pictures: Tensor) -> list[Tensor]:
    """(N, dimension) of texts, and of pictures."""
    return [_unit(texts(tokens)).cpu(), _unit(images(pictures)).cpu()]


def _passes(kept: gate.Kept, precision: str) -> bool:
    return kept.cosine >= settings.PARITY[precision] and kept.overlap >= settings.OVERLAP


def _sentence(precision: str, ranges: dict, kept: list[gate.Kept], inputs: gate.Inputs) -> str:
    alone = f" of {' and '.join(ranges)}" if len(ranges) == 1 else ""
    found = (
        f"a cosine of {each.cosine:.5f} to float32 or more and {each.overlap:.1%} of the nearest 10 over {len(of)} {tower}"
        for tower, each, of in zip(_TOWERS, kept, inputs, strict=True)
    )
    return f"{precision}{alone}: {', '.join(found)}"


def _moved(batch: Tensor, device: torch.device) -> Tensor:
    """On the device; through page-locked memory to a GPU, so that the copy runs beside another thread's computing."""
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


class _ModuleTexts:
    """open_clip's own text tower; texts are cut at the batch's longest where that changes nothing."""

    def __init__(self, model: nn.Module, device: torch.device | str, trims: bool):
        self._model, self._device, self._trims = model, torch.device(device), trims

    def __call__(self, texts: list[Tensor]) -> Tensor:
        if not self._trims:
            return self._model.encode_text(_moved(torch.stack(texts), self._device))
        model, last = self._model, torch.tensor([len(tokens) - 1 for tokens in texts])
        tokens = _moved(nn.utils.rnn.pad_sequence(texts, batch_first=True), self._device)
        length, kind = tokens.shape[1], model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(kind) + model.positional_embedding[:length].to(kind)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        return x[torch.arange(len(texts)), last] @ model.text_projection


class _ModuleImages:
    """open_clip's own image tower, after the normalisation."""

    def __init__(
        self, model: nn.Module, kind: torch.dtype, device: torch.device | str, mean: Sequence[float], std: Sequence[float]
    ):
        self._model, self._kind = model, kind
        self._mean, self._std = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(((pixels.float() / 255 - self._mean) / self._std).to(self._kind))


def _create(name: str, precision: str) -> tuple[nn.Module, str]:
    """The model on the CPU, ready for inference, and the name that gives its tokeniser."""
    model, tokenizer_name = cached_first(name, lambda: _load(name, _OPEN_CLIP_PRECISION[precision]))
    return model.eval().requires_grad_(False), tokenizer_name


def _load(name: str, precision: str) -> tuple[nn.Module, str]:
    name = full_name(name)
    if name.startswith(SCHEMAS):
        with _Unfilled():
            return open_clip.create_model(name, precision=precision, require_pretrained=True), name
    architecture, slash, tag = name.rpartition("/")
    if not slash:
        raise ModelError("a name without a tag; write ARCHITECTURE/TAG, for example ViT-B-32/openai")
    if tag == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return open_clip.create_model(architecture, pretrained=None, precision=precision), architecture
    known = open_clip.get_pretrained_cfg(architecture, tag)
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ModelError(f"open_clip knows no weights {tag!r} for {architecture!r}; its tags: {tags}")
    # The tag says with which activation it was trained; open_clip alone would only warn and compute with another.
    with warnings.catch_warnings(), _Unfilled():
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        quick_gelu = bool(known.get("quick_gelu", False))
        options = {"precision": precision, "require_pretrained": True, "quick_gelu": quick_gelu}
        return open_clip.create_model(architecture, tag, **options), architecture


class _Unfilled(torch.overrides.TorchFunctionMode):
    """New parameters stay as the memory was: the checkpoint fills all of them, which open_clip's strict loading checks."""

    _FILLING = torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function in self._FILLING:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


def _can_trim(model: nn.Module) -> bool:
    """Whether what follows a text's end-of-text token cannot change its vector: the tower is causal and reads there."""
    return (
        type(model) is open_clip.CLIP
        and model.text_pool_type == "argmax"
        and model.attn_mask is not None
        and isinstance(model.text_projection, nn.Parameter)
    )


def _give_back_memory() -> None:
    """Has the C library, where it is glibc, give back to the system what is free."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float(), dim=-1)


def _hash(model: nn.Module) -> str:
    """16 hex digits of a BLAKE2b over the names and values of all weights, as bfloat16 so that precision changes nothing."""
    digest = hashlib.blake2b(digest_size=8)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
