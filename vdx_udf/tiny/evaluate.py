"""How well a model finds and names what drawn pictures show, on pictures and wordings it was not trained on.

The pictures come from another seed. The sentences around the words (`UNSEEN_FRAMES`) occur in no training caption;
the words themselves, with synonyms and plurals, do, since a model that reads no other text can know no others.
"""

from pathlib import Path

import numpy as np
import open_clip
import torch

from vdx_udf.tiny.captions import SHAPE_WORDS, WORDS, Caption, claim, facts, truth
from vdx_udf.tiny.pictures import VALUES, Picture, draw, sample_picture

SEED, PICTURES, QUERIES = 20_000, 2_000, 50
UNSEEN_FRAMES = (
    "{}", "do you have {}?", "could somebody look up {} for me", "images containing {}", "a snapshot in which we see {}",
    "I'd like to look at {}, please", "are there any with {}?", "every scene that has {}",
)  # fmt: skip
LABELS = {
    "colour": "a {} object", "shape": "a {}", "size": "a {} object", "texture": "a {} object",
    "background": "a {} background",
}  # fmt: skip


def evaluate(folder: Path) -> dict[str, float]:
    """The figures of the model in `folder` on unseen pictures.

    `precision_at_10_*` count hits over min(10, relevant), averaged over 50 queries: for colour and shape and with
    size the queries have at least 10 relevant pictures each, for four attributes (with texture) at least one.
    `zero_shot_*` is accuracy over the pictures where all objects share one value of the attribute.
    """
    rng = np.random.default_rng(SEED)
    pictures = [sample_picture(rng) for _ in range(PICTURES)]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    @torch.inference_mode()
    def worded(texts: list[str]) -> np.ndarray:
        return model.encode_text(tokenizer(texts), normalize=True).numpy()

    with torch.inference_mode():
        batches = [torch.stack([preprocess(draw(p)) for p in pictures[i : i + 250]]) for i in range(0, PICTURES, 250)]
        pictured = np.concatenate([model.encode_image(b, normalize=True).numpy() for b in batches])
    figures = {}
    known = facts(pictures)
    attributes = {"colour_shape": 10, "colour_shape_size": 10, "colour_shape_size_texture": 1}
    for name, at_least in attributes.items():
        queries = _queries(rng, tuple(name.split("_")), known, at_least)
        held = truth(queries, known)
        best = np.argsort(-(worded([q.text for q in queries]) @ pictured.T), axis=1)[:, :10]
        hits = np.take_along_axis(held, best, axis=1).sum(1)
        figures[f"precision_at_10_{name}"] = round(float((hits / np.minimum(10, held.sum(1))).mean()), 4)
    for attribute, label in LABELS.items():
        rows, values = _single_valued(pictures, attribute)
        labels = worded([label.format(v) for v in VALUES[attribute]])
        guessed = (pictured[rows] @ labels.T).argmax(1)
        figures[f"zero_shot_{attribute}"] = round(float((guessed == values).mean()), 4)
    return figures


def _queries(rng: np.random.Generator, named: tuple[str, ...], known: tuple, at_least: int) -> list[Caption]:
    """50 different queries that name these attributes in other words, each true of enough pictures."""
    queries: dict[tuple, Caption] = {}
    while len(queries) < QUERIES:
        values = {a: str(rng.choice(VALUES[a])) for a in named}
        words = {a: str(rng.choice(WORDS[a][values[a]])) for a in named if a != "shape"}
        plural = int(rng.integers(2))
        shape = str(rng.choice(SHAPE_WORDS[values["shape"]][plural]))
        parts = [words[a] for a in ("size", "texture", "colour") if a in words]
        text = ("" if plural else "a ") + " ".join([*parts, shape])
        query = Caption(str(rng.choice(UNSEEN_FRAMES)).format(text), (claim(**values),))
        if truth([query], known).sum() >= at_least:
            queries.setdefault(query.claims, query)
    return list(queries.values())


def _single_valued(pictures: list[Picture], attribute: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the pictures that show one value of the attribute only, and that value's index."""
    rows, values = [], []
    for row, picture in enumerate(pictures):
        shown = {picture.background} if attribute == "background" else {getattr(t, attribute) for t in picture.things}
        if len(shown) == 1:
            rows.append(row)
            values.append(VALUES[attribute].index(shown.pop()))
    return np.array(rows), np.array(values)
