"""The reference documentation: built as `make docs` does, with every link checked."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdx_udf import contract, settings
from vdx_udf.commands import reference
from vdx_udf.commands.cli import main

ROOT = Path(__file__).parents[2]


def build(pages: Path, output: Path) -> subprocess.CompletedProcess:
    """Sphinx with the options of `make docs`: a link that leads nowhere is an error."""
    options = re.search(r"sphinx-build (.+) docs-output/pages", (ROOT / "Makefile").read_text()).group(1).split()
    program = Path(sys.executable).with_name("sphinx-build")
    return subprocess.run([program, *options, pages, output], capture_output=True, text=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "pages"
    folder.mkdir()
    reference.assemble(folder)
    return folder


@pytest.mark.parametrize("name", reference.pages())
def test_the_committed_pages_say_what_the_sources_say(name):
    assert (reference.REFERENCE / f"{name}.md").read_text() == reference.pages()[name], (
        "run python -m vdx_udf.commands.reference"
    )


def test_it_builds_without_a_warning_and_every_link_leads_somewhere(pages, tmp_path):
    done = build(pages, tmp_path / "html")
    assert (done.returncode, done.stderr) == (0, "")
    for page in pages.rglob("*.md"):
        assert (tmp_path / "html" / page.relative_to(pages).with_suffix(".html")).is_file()


def test_a_link_that_leads_nowhere_is_an_error(pages, tmp_path):
    shutil.copytree(pages, tmp_path / "pages")
    with open(tmp_path / "pages" / "index.md", "a") as index:
        index.write("\n[nowhere](#no-such-heading)\n")
    done = build(tmp_path / "pages", tmp_path / "html")
    assert done.returncode != 0
    assert "no-such-heading" in done.stderr


def test_everything_is_in_it():
    text = reference.pages()
    for function in contract.FUNCTIONS.values():
        assert f"## `{function.signature}`" in text["functions"]
    for name in settings.POOL:
        assert f"| `{name}` |" in text["functions"]
    for command in main.commands:
        assert f"## `vdx {command}`" in text["commands"]
    for name in (name for name in vars(settings) if name.isupper()):
        assert f"| `{name}` |" in text["settings"], name
    for title, folder in (("sql", "sql"), ("datasets", "sql/datasets"), ("cluster", "sql/cluster")):
        for path in (ROOT / folder).glob("*.sql"):
            assert reference.head_of(path), path
            for found in reference.sql_objects(path):
                assert f"### `{found.name}`" in text[title]
                assert found.example in text[title]
