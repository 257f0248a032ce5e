"""Weights are fetched when a model is installed, with a progress bar, and taken from the cache ever after: from a hub on loopback."""

import time

import pytest

from tests.commands.conftest import Terminal
from tests.conftest import vdx
from tests.installer.conftest import environment, hub, nowhere
from vdx_udf.encoder.model_name import TINY_FOLDER, dimension_of

MODEL = "hf-hub:people/their-clip"


@pytest.mark.long
def test_install_fetches_them_with_a_progress_bar_and_asks_no_hub_again(tmp_path):
    install = ("install", "--prefix", tmp_path / "engine", "--model", MODEL)
    with hub() as (address, asked):
        terminal = Terminal(*install, **environment(tmp_path, address))
        terminal.wait_for("open_clip_model.safetensors: ")
        terminal.wait_for("100%")
        terminal.wait_for("next: vdx sql")
        terminal.ends()
        assert asked
        asked.clear()
        vdx(*install, env=environment(tmp_path, address))
        assert not asked
    vdx(*install, env=environment(tmp_path, nowhere()))
    # A GPU need not be here yet; its encoder is another installation's.
    gpu = ("install", "--prefix", tmp_path / "gpu", "--model", MODEL, "--precision", "float16", "--device", "cuda:0")
    vdx(*gpu, env=environment(tmp_path, nowhere()))
    query = "SELECT length(encode_text('a red circle')), encoder_info()['model']"
    vdx("sql", "--prefix", tmp_path / "engine", "-f", tmp_path / "engine" / "sql", env=environment(tmp_path, nowhere()))
    done = vdx("sql", "--prefix", tmp_path / "engine", "-q", query, env=environment(tmp_path, nowhere()))
    assert done.stdout == f"512\t{MODEL}\n"
    vdx("uninstall", "--prefix", tmp_path / "engine")


def test_without_weights_and_network_nothing_is_installed_and_it_says_what_works(tmp_path):
    began = time.monotonic()
    done = vdx("install", "--prefix", tmp_path / "engine", env=environment(tmp_path, nowhere()), check=False)
    print(f"it said so after {time.monotonic() - began:.1f} s")
    assert done.returncode == 1
    assert "its weights are not on this machine and http://127.0.0.1:" in done.stderr
    assert "--model vdx-tiny, the bundled model, needs no network; --model local-dir:PATH" in done.stderr
    assert not (tmp_path / "engine").exists()


def test_a_hub_that_lacks_the_model_is_no_missing_network(tmp_path):
    with hub() as (address, _):
        model = "hf-hub:people/none"
        done = vdx("install", "--prefix", tmp_path, "--model", model, env=environment(tmp_path, address), check=False)
    assert done.returncode == 1
    assert f"model '{model}': its configuration cannot be read" in done.stderr


def test_no_download_leaves_it_to_the_first_query(tmp_path):
    install = ("install", "--prefix", tmp_path / "engine", "--model", "ViT-B-32/openai", "--no-download")
    vdx(*install, env=environment(tmp_path, nowhere()))
    assert not (tmp_path / "hf" / "hub").exists()
    engine = ("--prefix", tmp_path / "engine")
    done = vdx("sql", *engine, "-q", "SELECT encode_text('')", env=environment(tmp_path, nowhere()), check=False)
    assert done.returncode == 1
    assert "its weights are not on this machine" in done.stderr


@pytest.mark.parametrize(
    "name", ["RN50/openai", "ViT-B-32/openai", "ViT-L-14/openai", "xlm-roberta-base-ViT-B-32/x", "vdx-tiny"]
)
def test_the_dimension_is_what_open_clip_reads(name):
    import open_clip

    theirs = f"local-dir:{TINY_FOLDER}" if name == "vdx-tiny" else name.partition("/")[0]
    assert dimension_of(name) == open_clip.get_model_config(theirs)["embed_dim"]
