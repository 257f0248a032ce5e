"""Trains vdx-tiny from nothing: `python -m vdx_udf.tiny.train` writes the model folder that the package ships.

A small open_clip model learns on pictures that this repository draws. The loss is CLIP's, in both directions,
with exact truth: a caption that holds for several pictures of a batch counts as a match for each of them.
Words that no caption uses share one token row, trained as "a word to ignore" by mixing it into captions.
"""

import json
import math
import time
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

from vdx_udf.encoder.model import Clip
from vdx_udf.tiny.captions import Caption, caption, facts, foil, truth
from vdx_udf.tiny.evaluate import evaluate
from vdx_udf.tiny.pictures import draw, sample_picture

FOLDER = Path(__file__).parent / "vdx-tiny"
IMAGE_SIZE = 64
CONFIG = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
}
IGNORED = 0  # the row of words that no caption uses, and of padding, which a causal tower never reads


class Vocabulary:
    """The tokens that captions use, numbered without gaps in the tokeniser's own order; row 0 is all the rest."""

    def __init__(self, captions: list[Caption]):
        self.tokenizer = open_clip.SimpleTokenizer()
        self._of_word: dict[str, list[int]] = {}
        used = {token for c in captions for token in self._tokens(c.text)}
        ends = {self.tokenizer.sot_token_id, self.tokenizer.eot_token_id}
        self.tokens = [IGNORED, *sorted(used | ends)]
        self._row = {token: row for row, token in enumerate(self.tokens)}

    def _tokens(self, text: str) -> list[int]:
        tokens = []
        for word in text.split():
            if word not in self._of_word:
                self._of_word[word] = self.tokenizer.encode(word)
            tokens += self._of_word[word]
        return tokens

    def rows(self, captions: list[Caption], rng: np.random.Generator, context_length: int) -> torch.Tensor:
        """Captions as rows of the token table, int64 (N, context_length), a third with words to ignore mixed in."""
        table = torch.zeros(len(captions), context_length, dtype=torch.long)
        start, end = (self._row[t] for t in (self.tokenizer.sot_token_id, self.tokenizer.eot_token_id))
        for i, c in enumerate(captions):
            rows = [self._row.get(t, IGNORED) for t in self._tokens(c.text)]
            if rng.random() < 0.35:
                for _ in range(rng.integers(1, 5)):
                    rows.insert((0, len(rows), int(rng.integers(len(rows) + 1)))[rng.integers(3)], IGNORED)
            rows = [start, *rows[: context_length - 2], end]
            table[i, : len(rows)] = torch.tensor(rows)
        return table


def _match_loss(logits: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each row against an equal share for each of its true columns, over rows that have one."""
    share = held / held.sum(1, keepdim=True).clamp(min=1)
    return -(share * logits.log_softmax(1)).sum() / (held.sum(1) > 0).sum()


def _learning_rate(step: int, steps: int, peak: float, warm_up: int = 100) -> float:
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def _pixels(pictures: list) -> torch.Tensor:
    """The pictures as the model sees them, uint8 (N, 3, 64, 64)."""
    small = [draw(p).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC) for p in tqdm(pictures, "draw")]
    return torch.from_numpy(np.stack([np.asarray(image) for image in small])).permute(0, 3, 1, 2).contiguous()


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--pictures", default=150_000, show_default=True)
@click.option("--steps", default=8_500, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(folder: Path, pictures: int, steps: int, batch: int, seed: int) -> None:
    """Draw, train, measure on unseen pictures, and write the model folder with its training log."""
    began = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = [sample_picture(rng) for _ in range(pictures)]
    pixels = _pixels(drawn)
    vocabulary = Vocabulary([caption(rng, p) for p in drawn[:50_000]])
    known = facts(drawn)

    cfg = CONFIG["model_cfg"]
    text_cfg = {**cfg["text_cfg"], "vocab_size": len(vocabulary.tokens)}
    model = open_clip.CLIP(**{**cfg, "text_cfg": text_cfg})
    model.train().to(memory_format=torch.channels_last)
    preprocess = CONFIG["preprocess_cfg"]
    mean, std = (torch.tensor(preprocess[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98))

    log = []
    for step in (bar := tqdm(range(steps), "train")):
        if step % (pictures // batch) == 0:
            order = rng.permutation(pictures)
        at = step % (pictures // batch) * batch
        chosen = order[at : at + batch]
        captions = [caption(rng, drawn[i]) for i in chosen]
        captions += [foil(rng, drawn[i]) for i in chosen if len(drawn[i].things) > 1]
        held = torch.from_numpy(truth(captions, tuple(part[chosen] for part in known)))
        images = (pixels[chosen].float() / 255 - mean) / std
        rows = vocabulary.rows(captions, rng, cfg["text_cfg"]["context_length"])
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps, 2e-3)
        with torch.autocast("cpu", torch.bfloat16):
            pictured = model.encode_image(images.contiguous(memory_format=torch.channels_last), normalize=True)
            worded = model.encode_text(rows, normalize=True)
        logits = model.logit_scale.exp() * worded.float() @ pictured.float().T
        loss = (_match_loss(logits, held.float()) + _match_loss(logits.T, held.T.float())) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 0 or step == steps - 1:
            log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - began, 1)})
            bar.set_postfix(loss=f"{loss.item():.3f}")

    _write(model, vocabulary, folder)
    seconds = round(time.monotonic() - began, 1)
    record = {"seed": seed, "pictures": pictures, "steps": steps, "batch": batch, "seconds": seconds}
    record |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    record |= {"weights_hash": Clip(f"local-dir:{folder}").weights_hash}
    record |= {"figures": evaluate(folder), "log": log}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "log"}, indent=1))


def _write(model: torch.nn.Module, vocabulary: Vocabulary, folder: Path) -> None:
    """The model as open_clip's `local-dir:` reads it: the full token table, weights in float16."""
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    small = weights["token_embedding.weight"]
    full = small[IGNORED].repeat(CONFIG["model_cfg"]["text_cfg"]["vocab_size"], 1)
    full[vocabulary.tokens[1:]] = small[1:]
    weights["token_embedding.weight"] = full
    half = {n: v.half().contiguous() if v.is_floating_point() else v for n, v in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(half, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


if __name__ == "__main__":
    main()
