"""The bundled model does what its training log claims, and pictures and captions are what they say."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.tiny import train
from vdx_udf.tiny.captions import FRAMES, Caption, caption, claim, facts, foil, truth
from vdx_udf.tiny.evaluate import UNSEEN_FRAMES, evaluate
from vdx_udf.tiny.pictures import Picture, Thing, draw, pair, sample_picture

TARGETS = {
    "precision_at_10_colour_shape": 0.95,
    "precision_at_10_colour_shape_size": 0.90,
    "precision_at_10_colour_shape_size_texture": 0.70,
    "zero_shot_shape": 0.97,
    "zero_shot_colour": 0.97,
    "zero_shot_size": 0.97,
    "zero_shot_background": 0.97,
    "zero_shot_texture": 0.85,
}


def test_unseen_pictures_and_wordings_reach_the_targets_and_the_log_says_so():
    figures = evaluate(TINY_FOLDER)
    assert set(figures) == set(TARGETS)
    assert {name: value for name, value in figures.items() if value < TARGETS[name]} == {}
    logged = json.loads((TINY_FOLDER / "training.json").read_text())
    assert figures == pytest.approx(logged["figures"], abs=0.01)
    assert logged["seconds"] <= 30 * 60
    assert sum(path.stat().st_size for path in TINY_FOLDER.iterdir()) < 15 << 20


@pytest.mark.long
def test_the_same_seed_trains_the_same_model(tmp_path):
    """The whole script, a few steps of it: the weights depend on nothing but the seed."""
    for seed, folder in ((1, "one"), (1, "again"), (2, "other")):
        options = [
            "--pictures",
            "400",
            "--steps",
            "6",
            "--batch",
            "64",
            "--seed",
            str(seed),
            "--folder",
            str(tmp_path / folder),
        ]
        done = CliRunner().invoke(train.main, options, catch_exceptions=False)
        assert done.exit_code == 0
    weights = {f: load_file(tmp_path / f / "open_clip_model.safetensors") for f in ("one", "again", "other")}
    assert all(torch.allclose(w, weights["again"][name], atol=1e-3) for name, w in weights["one"].items())
    assert not torch.allclose(weights["one"]["text_projection"], weights["other"]["text_projection"], atol=1e-3)
    log = json.loads((tmp_path / "one" / "training.json").read_text())
    assert set(log["figures"]) == set(TARGETS)


def test_the_evaluations_sentences_occur_in_no_training_caption():
    assert not set(UNSEEN_FRAMES[1:]) & set(FRAMES)


def test_captions_are_true_and_foils_mostly_false():
    rng = np.random.default_rng(3)
    pictures = [sample_picture(rng) for _ in range(400)]
    known = facts(pictures)
    assert truth([caption(rng, p) for p in pictures], known).diagonal().all()
    several = [p for p in pictures if len({t.shape for t in p.things}) > 1]
    assert truth([foil(rng, p) for p in several], facts(several)).diagonal().mean() < 0.1


def thing(colour: str, shape: str, x: float = 30, y: float = 30) -> Thing:
    return Thing(colour, shape, "small", "solid", x, y, 17)


def test_truth_by_hand():
    both = Picture("white", (thing("red", "circle"), thing("blue", "square", 90, 90)), 0)
    swapped = Picture("black", (thing("blue", "circle"), thing("red", "square", 90, 90)), 0)
    alone = Picture("white", (thing("red", "circle"),), 0)
    captions = [
        Caption("red circle", (claim(colour="red", shape="circle"),)),
        Caption("red circle and blue square", (claim(colour="red", shape="circle"), claim(colour="blue", shape="square"))),
        Caption("two small things", (claim(size="small"), claim(size="small"))),
        Caption("white background", (), 0),
        Caption("one object", (), -1, 1),
        Caption("something at the bottom right", (claim(horizontal="right", vertical="bottom"),)),
    ]
    expected = [[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert truth(captions, facts([both, swapped, alone])).astype(int).tolist() == expected


def test_the_same_picture_always_gives_the_same_pixels():
    rng = np.random.default_rng(4)
    picture = pair(rng, ("red", "circle"), ("blue", "square"))
    assert {(t.colour, t.shape) for t in picture.things} == {("red", "circle"), ("blue", "square")}
    first, again = (np.asarray(draw(picture)) for _ in range(2))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, again)
