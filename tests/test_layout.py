"""The package's wings: who may import whom, and what a command may load before it has anything to do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vdx_udf"
# From the roof down; each wing imports from those below it and from itself.
WINGS = ("commands", "installer", "encoder")
GROUND = {"contract", "settings", "errors", "statements", "engine"}
LOADED = """
import sys
import vdx_udf.commands.cli as cli
{}
print(sorted({{"torch", "open_clip", "pandas", "matplotlib"}} & set(sys.modules)))
"""


def imports_of(path: Path) -> set[str]:
    """The package's modules that a file imports anywhere, functions included: `encoder.native`, `settings`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
    return {name.removeprefix("vdx_udf.") for name in found if name and name.startswith("vdx_udf.")}


def wing_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    wings = {wing_of(module) for module in imports_of(path)} - GROUND - {"__version__"}
    if parts[0] in WINGS:
        allowed = {*WINGS[WINGS.index(parts[0]) :]} | ({"tiny"} if parts[0] == "commands" else set())
    elif parts[0] in GROUND:
        allowed = set()
    else:  # the entry, and the bundled model's own workshop
        allowed = {"commands"} if parts[0] == "__main__" else {"encoder", "tiny"}
    assert wings <= allowed, path


def test_every_module_has_its_room():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == GROUND
    rooms = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert rooms == {*WINGS, "tiny"}
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert {*WINGS, "sql", "server", "page"} <= tests


def test_only_the_encoder_imports_torch():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in ("encoder", "tiny"):
            assert not {"torch", "open_clip"} & {
                name.name.partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for name in node.names
            }, path


@pytest.mark.parametrize(
    "use",
    [
        "cli.main(['--help'], standalone_mode=False)",
        "import vdx_udf.commands.shell",
        "import vdx_udf.commands.load",
        "import vdx_udf.commands.target",
        "import vdx_udf.installer.install",
    ],
)
def test_a_command_starts_without_torch(use):
    """So that it answers at once: the seconds are said in docs/speed.md, not asserted."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(use)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
