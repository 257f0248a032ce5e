"""The reference documentation, written from what the product itself says: `python -m vdx_udf.commands.reference`.

Functions from the contract, pool settings with the reasons that the XML states, SQL objects from the comments above them,
commands from their own help, defaults from settings.py, into docs/reference. With a folder it copies there what `make docs`
turns into HTML.
"""

import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from vdx_udf import contract, settings
from vdx_udf.commands.cli import main
from vdx_udf.installer import functions_xml
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.statements import sql_files

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
_CREATED = re.compile(r"^CREATE (?:OR REPLACE )?(?:MATERIALIZED )?(FUNCTION|TABLE|VIEW) (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
_DEFAULT = re.compile(r"^([A-Z][A-Z_]+) = (.+?)(?:  # (.*))?$")


@dataclass(frozen=True)
class SqlObject:
    """What a SQL file creates: FUNCTION, TABLE or VIEW, its name and the comment above it."""

    kind: str
    name: str
    comment: str

    @property
    def purpose(self) -> str:
        return self.comment.partition("Example: ")[0].strip()

    @property
    def example(self) -> str:
        return self.comment.partition("Example: ")[2].strip()


def sql_objects(path: Path) -> Iterator[SqlObject]:
    """Every object that a SQL file creates, in its order."""
    text = path.read_text()
    for match in _CREATED.finditer(text):
        comment: list[str] = []
        for line in reversed(text[: match.start()].splitlines()):
            if not line.startswith("--"):
                break
            comment.insert(0, line[2:].strip())
        yield SqlObject(match.group(1), match.group(2), "\n".join(comment))


def head_of(path: Path) -> str:
    """What a SQL file says of itself in its first lines."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("--") or re.match(r"-- (?:parameter|rows|done|for each):", line):
            break
        lines.append(line[2:].strip())
    return "\n".join(lines)


def functions() -> str:
    parts = ["# Functions\n\nRegistered through XML as pools of worker processes, Native format both ways.\n"]
    for function in contract.FUNCTIONS.values():
        parts.append(f"## `{function.signature}`\n\nReturns `{function.returns}`: {function.meaning}.\n")
    parts.append("## Pools\n\nEvery function has its own pool with these settings.\n\n| setting | value | why |\n|---|---|---|")
    parts += [f"| `{name}` | `{value}` | {functions_xml.WHY[name]} |" for name, value in settings.POOL.items()]
    return "\n".join(parts) + "\n"


def sql(title: str, paths: list[Path]) -> str:
    parts = [f"# {title}\n"]
    for path in paths:
        parts.append(f"## {path.relative_to(bundle_folder('sql'))}\n\n{head_of(path)}\n")
        for found in sql_objects(path):
            parts.append(f"### `{found.name}` ({found.kind.lower()})\n\n{found.purpose}\n")
            if found.example:
                parts.append(f"```sql\n{found.example}\n```\n")
    return "\n".join(parts) + "\n"


def commands() -> str:
    parts = ["# Commands\n"]
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, info_name=f"vdx {name}", terminal_width=100)
        parts.append(f"## `vdx {name}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts) + "\n"


def defaults() -> str:
    parts = ["# Settings\n\nEach stands in `vdx_udf/settings.py` alone.\n\n| name | value | why |\n|---|---|---|"]
    above: list[str] = []
    for line in inspect.getsource(settings).splitlines():
        if line.startswith("# "):
            above.append(line[2:])
        elif match := _DEFAULT.match(line):
            name, value, beside = match.groups()
            value = value if value[-1] not in "{([" else "..."
            why = " ".join(filter(None, (*above, beside))).replace("|", "\\|")
            parts.append(f"| `{name}` | `{value}` | {why} |")
            above = []
        elif not line.strip():
            above = []
    return "\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """The pages of docs/reference, by name."""
    source = bundle_folder("sql")
    return {
        "functions": functions(),
        "sql": sql("SQL objects", sql_files(source)),
        "datasets": sql("Data sets", sql_files(source / "datasets")),
        "cluster": sql("On a cluster", sql_files(source / "cluster")),
        "commands": commands(),
        "settings": defaults(),
    }


def assemble(folder: Path) -> None:
    """Copies everything that `make docs` builds: the README as the first page, docs/, the changelog and the pictures shown."""
    shutil.copytree(ROOT / "docs", folder / "docs", dirs_exist_ok=True)
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    listed = "\n".join(sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.md")))
    readme = (ROOT / "README.md").read_text()
    (folder / "index.md").write_text(f"{readme}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n")
    for page in folder.rglob("*.md"):
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            place = (page.parent / picture).resolve()
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place.relative_to(folder.resolve()), place)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        assemble(Path(sys.argv[1]))
    else:
        for name, text in pages().items():
            (REFERENCE / f"{name}.md").write_text(text)
