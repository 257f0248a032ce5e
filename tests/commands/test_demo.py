"""The demo, smaller than `make demo` runs it, in a folder of its own."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import vdx


@pytest.mark.long
def test_the_demo_shows_what_it_promises(tmp_path):
    done = vdx("demo", "--output", tmp_path / "out", "--quick")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report) == {
        "text_precision_at_10",
        "zero_shot_accuracy",
        "average_precision",
        "mistakes",
        "index_used",
        "rows",
        "rows_per_second",
        "pictures",
    }
    assert report["rows"] == 900
    assert report["index_used"] is True
    assert report["text_precision_at_10"] >= 0.95
    assert set(report["zero_shot_accuracy"]) == {"shape", "colour", "size", "texture", "background"}
    assert min(report["zero_shot_accuracy"].values()) >= 0.85
    precision = report["average_precision"]
    assert len(precision) == 4
    assert precision[-1] > precision[0] + 0.1
    assert report["mistakes"]["planted"] > 5
    assert report["mistakes"]["precision"] >= 0.9
    assert report["mistakes"]["recall"] >= 0.8
    assert len(report["pictures"]) == 9
    for path in report["pictures"]:
        with Image.open(path) as sheet:
            assert sheet.width > 500
            assert sheet.height > 200
    assert "INSERT INTO inbox" in done.stdout
    assert "FROM refine(concept" in done.stdout
    assert "not a picture; formats read" in done.stdout
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in p.read_bytes()]
    assert not running  # the demo leaves no process behind


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    done = vdx("demo", "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert f"Error: {tmp_path} holds other files than an earlier demo's: name another folder with --output" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"
