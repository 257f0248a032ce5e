"""One CLIP model: from a name to unit vectors, the way open_clip computes them."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from vdx_udf import settings
from vdx_udf.errors import ModelError

TINY_FOLDER = Path(__file__).parent / "tiny" / "vdx-tiny"
_SCHEMAS = ("hf-hub:", "local-dir:")
_OPEN_CLIP_PRECISION = dict(zip(settings.PRECISIONS, ("fp32", "bf16"), strict=True))
TRIMMED_BATCH = 32  # texts of similar length that go through the tower together, cut at the longest


class Clip:
    """An open_clip model with its own tokeniser and preprocessing.

    `name` is `vdx-tiny`, `ARCHITECTURE/TAG` as in open_clip (`ViT-B-32/openai`), `ARCHITECTURE/random` (seeded random
    weights), `hf-hub:ORG/NAME` or `local-dir:PATH`. `precision` is one of the settings' PRECISIONS: in bfloat16 weights
    and activations are, normalisations and what is returned stay float32. Raises ModelError.
    """

    def __init__(self, name: str, precision: str = settings.PRECISION):
        self.name, self.precision = name, precision
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._model, tokenizer_name = _create(name, _OPEN_CLIP_PRECISION[precision])
        except Exception as error:
            raise ModelError(f"model {name!r} cannot be loaded: {error}") from error
        self._model.eval().to(self.device)
        self._tokenize = open_clip.get_tokenizer(tokenizer_name)
        self._trims = _can_trim(self._model)
        self._preprocess = image_transform_v2(PreprocessCfg(**self._model.visual.preprocess_cfg), is_train=False)
        self.logit_scale = float(self._model.logit_scale.exp().item())
        self.weights_hash = _hash(self._model)
        self.dimension = self.encode_texts([""]).shape[1]

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors, float32 (N, dimension). Longer texts than the tower reads are cut by the tokeniser."""
        tokens = self._tokenize(texts).to(self.device)
        if not self._trims:
            return _unit(self._model.encode_text(tokens)).cpu().numpy()
        lengths = tokens.argmax(dim=1) + 1  # the end-of-text token has the highest number
        order = lengths.argsort()
        vectors = torch.empty(len(texts), self._model.text_projection.shape[1], device=self.device)
        for rows in order.split(TRIMMED_BATCH):
            vectors[rows] = _encode_trimmed(self._model, tokens[rows, : int(lengths[rows[-1]])])
        return vectors.cpu().numpy()

    @torch.inference_mode()
    def encode_images(self, pixels: list[torch.Tensor]) -> np.ndarray:
        """Unit vectors, float32 (N, dimension), of pictures that went through `pixels`: float32 (3, H, W) each."""
        batch = torch.stack(pixels).to(self.device, getattr(torch, self.precision))
        return _unit(self._model.encode_image(batch)).cpu().numpy()

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """What the model sees of a picture: float32 (3, H, W), resized, cropped and normalised as it was trained."""
        return self._preprocess(image)


def _create(name: str, precision: str) -> tuple[torch.nn.Module, str]:
    """The model, in a precision as open_clip calls it, and the name that gives its tokeniser."""
    if name == "vdx-tiny":
        name = f"local-dir:{TINY_FOLDER}"
    if name.startswith(_SCHEMAS):
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        quick_gelu = bool(known.get("quick_gelu", False))
        options = {"precision": precision, "require_pretrained": True, "quick_gelu": quick_gelu}
        return open_clip.create_model(architecture, tag, **options), architecture


def _can_trim(model: torch.nn.Module) -> bool:
    """Whether what follows a text's end-of-text token cannot change its vector: the tower is causal and reads there."""
    return (
        type(model) is open_clip.CLIP
        and model.text_pool_type == "argmax"
        and model.attn_mask is not None
        and isinstance(model.text_projection, torch.nn.Parameter)
    )


def _encode_trimmed(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's CLIP.encode_text on tokens int64 (N, L) that are cut after the longest text's end."""
    length = tokens.shape[1]
    kind = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(kind) + model.positional_embedding[:length].to(kind)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=1)] @ model.text_projection
    return _unit(x)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _hash(model: torch.nn.Module) -> str:
    """16 hex digits of a BLAKE2b over the names and values of all weights, as bfloat16 so that precision changes nothing."""
    digest = hashlib.blake2b(digest_size=8)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dimension_of(name: str) -> int:
    """The embedding dimension a model's configuration states; loads no weights. Raises ModelError."""
    name = f"local-dir:{TINY_FOLDER}" if name == "vdx-tiny" else name
    config_name = name if name.startswith(_SCHEMAS) else name.rpartition("/")[0]
    try:
        config = open_clip.get_model_config(config_name)
    except Exception as error:
        raise ModelError(f"model {name!r}: its configuration cannot be read: {error}") from error
    if config is None:
        raise ModelError(f"model {name!r} is not known to open_clip; write ARCHITECTURE/TAG, for example ViT-B-32/openai")
    return config["embed_dim"]
