"""What `make bench` hands the programs that it compares with: the weights are open_clip's, and one that cannot run says why."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from tests.benchmarks import peers
from tests.benchmarks.comparisons import Comparisons, line
from tests.benchmarks.peer_programs import ARCHITECTURE, TRANSFORMERS, WEIGHTS
from tests.benchmarks.peer_weights import write_weights

TEXTS = ["a red boat", "two dogs, asleep!", "a word " * 30, ""]


@pytest.mark.long
@torch.no_grad()
def test_transformers_gives_the_vectors_of_open_clip(tmp_path):
    write_weights(tmp_path)
    theirs = CLIPModel.from_pretrained(tmp_path / TRANSFORMERS).eval()
    ours, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, str(tmp_path / WEIGHTS))
    ours.eval()

    found = AutoTokenizer.from_pretrained(tmp_path / TRANSFORMERS)(TEXTS, padding="max_length", return_tensors="pt")
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(TEXTS)
    ends = tokens.argmax(dim=1)
    for row, end in enumerate(ends):
        assert found["input_ids"][row, : end + 1].tolist() == tokens[row, : end + 1].tolist()
    texts = theirs.text_projection(theirs.text_model(**found).pooler_output)
    assert peers._least_cosine(texts.numpy(), ours.encode_text(tokens).numpy()) > 0.99999

    # Where an odd number of pixels is to go, the two crop by another one: sizes at which none is, the benchmark's first.
    rng = np.random.default_rng(5)
    pictures = [
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((480, 640, 3), (224, 224, 3), (500, 400, 3))
    ]
    pixels = AutoImageProcessor.from_pretrained(tmp_path / TRANSFORMERS)(pictures, return_tensors="pt")["pixel_values"]
    images = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
    expected = ours.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
    assert peers._least_cosine(images.numpy(), expected.numpy()) > 0.999


@pytest.mark.parametrize("fault", [None, "ERROR: no wheel of numpy for this Python"])
def test_a_peer_without_its_environment_says_why(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    if fault:
        (tmp_path / ".venv-peers").mkdir()
        (tmp_path / ".venv-peers" / "fault").write_text(fault)
    found = Comparisons({})
    with pytest.raises(peers.CannotRun, match=fault or "make bench") as raised:
        peers.Running(peers.PEERS[0], tmp_path)
    found.not_run(peers.PEERS[0].name, str(raised.value))
    (row,) = json.loads(json.dumps(found.rows))
    assert row["fault"] in line(row)
    assert row["against"] in line(row)
