"""`vdx open`: a folder of pictures by one command, again, and where it cannot be."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.conftest import ask, free_ports, vdx
from tests.installer.conftest import environment, nowhere
from vdx_udf.commands.open import prefix_of
from vdx_udf.installer.install import stop_encoder
from vdx_udf.installer.layout import Layout

NAME = "a folder {of} 'mine'"


@contextmanager
def opened(folder, port: int, variables: dict[str, str]):
    """A `vdx open` that serves, and what it said before."""
    command = [sys.executable, "-m", "vdx_udf", "open", folder, "--model", "vdx-tiny", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as process:
        try:
            said = []
            while line := process.stdout.readline():
                said.append(line)
                if line.startswith("explorer: "):
                    break
            assert "".join(said[-1:]).startswith("explorer: "), "".join(said) + process.stderr.read()
            yield "".join(said)
            process.send_signal(signal.SIGINT)
            process.wait()
        finally:
            process.kill()


@pytest.mark.long
def test_a_folder_is_loaded_served_and_gone_on_with(tmp_path, drawn):
    folder = tmp_path / NAME
    folder.mkdir()
    pictures = sorted(drawn[0].glob("*.png"))[:6]
    for path in pictures[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("no picture")
    variables, (port, other) = environment(tmp_path, nowhere()), free_ports(2)
    count = "SELECT dataset, count() FROM current_images GROUP BY dataset"
    url = f"http://127.0.0.1:{port}"
    try:
        with opened(folder, port, variables) as said:
            assert "notes.txt" in said or ".txt 1" in said
            assert ask(url, count) == [[NAME, 4]]
            ask(url, "INSERT INTO labels (concept, image_id, positive) SELECT 'mine', id, true FROM current_images LIMIT 1")
            # A second one finds the first, and loads through it.
            (folder / pictures[4].name).write_bytes(pictures[4].read_bytes())
            done = vdx("open", folder, "--model", "vdx-tiny", "--port", other, env=variables)
            assert f"explorer: {url}/explorer/" in done.stdout
            assert ask(url, count) == [[NAME, 5]]
        (folder / pictures[5].name).write_bytes(pictures[5].read_bytes())
        with opened(folder, port, variables):
            assert ask(url, count) == [[NAME, 6]]
            assert ask(url, "SELECT count() FROM current_labels") == [[1]]
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", variables["XDG_DATA_HOME"])
            stop_encoder(Layout.embedded(prefix_of(folder, "vdx-tiny")))


def test_folders_and_models_have_tables_of_their_own(tmp_path):
    one, other = tmp_path / "a" / "holiday", tmp_path / "b" / "holiday"
    prefixes = {prefix_of(folder, model) for folder in (one, other) for model in ("vdx-tiny", "ViT-B-32/openai")}
    assert len(prefixes) == 4
    assert {prefix.name.rpartition("-")[0] for prefix in prefixes} == {"holiday"}
    odd = os.fsdecode(b"[5$] {a,b}* \\ \xff\n?")
    assert prefix_of(tmp_path / odd, "vdx-tiny").name.rpartition("-")[0] == "_5_] _a,b}_ _ ___"


def test_what_cannot_be_opened_is_said_at_once(tmp_path):
    done = vdx("open", tmp_path / "none", check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {tmp_path / 'none'} is no folder: name the one that holds your pictures\n",
    )
    done = vdx("open", tmp_path, check=False, env=environment(tmp_path, nowhere()))
    assert done.returncode == 1
    assert "its weights are not on this machine" in done.stderr
    assert not (tmp_path / "data").exists()
