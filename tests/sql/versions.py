"""Earlier ClickHouse: every SQL object's example on the engines of earlier chDB releases. `make test-versions` runs all of them.

Each engine is installed into a folder of its own, from the package registry, and run in a process of its own. What one of them
lacks that a server of its version has is told apart: chDB left the vector index out until 26.5.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

ROOT = Path(__file__).parents[2]

# The oldest first: it is the one that `make test` runs.
ENGINES = ("chdb==3.7.2", "chdb-core==26.1.0", "chdb-core==26.3.0", "chdb-core==26.5.0", "chdb-core==26.7.3")
RESULT = ROOT / "tests" / "benchmarks" / "results" / "versions.md"


@dataclass(frozen=True)
class Outcome:
    """`failures`: statement to error. `index`: whether the engine has the vector index."""

    version: str
    index: bool
    examples: int
    failures: dict[str, str]


def environment(engine: str, site: Path) -> dict[str, str]:
    """Installs the engine into a folder; the environment in which Python finds it there."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", site]
    subprocess.run([*pip, engine], check=True, capture_output=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT), *filter(None, sys.path)])}


def check(engine: dict[str, str], folder: Path, pictures: Path) -> Outcome:
    """Runs the schema and all examples on the engine of an environment, over a folder of pictures."""
    layout = Layout.embedded(folder / "prefix")
    list(install(layout, "vdx-tiny"))
    # Before 26 the engine reads no configuration, but functions and their scripts from one folder.
    together = folder / "together"
    shutil.copytree(layout.user_scripts, together)
    for path in layout.functions.iterdir():
        shutil.copy(path, together)
    command = [sys.executable, "-m", "tests.sql.versions", str(layout.state), str(together), str(pictures)]
    try:
        done = subprocess.run(command, env=engine, capture_output=True, text=True)
    finally:
        stop_encoder(layout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def run(prefix: Path, together: Path, pictures: Path) -> Outcome:
    """In the engine's own process."""
    import chdb

    from vdx_udf.commands.reference import sql_objects
    from vdx_udf.statements import sql_files, statements_of

    # Earlier releases do not decode the address.
    option = f"udf_path={together}" if chdb.__version__.startswith("3.") else f"config-file={prefix}/config.xml"
    connection = chdb.connect(f"{prefix}/data?{option}")

    def ask(statement: str) -> str:
        return str(connection.query(statement, "TSV")).strip()

    failures: dict[str, str] = {}

    def attempt(statement: str) -> bool:
        try:
            connection.query(statement, "Null")
        except Exception as error:
            if "`base64Encode` does not exist" in str(error):  # chDB 3 is built without it, no server is
                return True
            failures[re.sub(r"^--.*\n", "", statement, flags=re.MULTILINE)[:200]] = str(error)[:500]
            return False
        return True

    index = True
    for statement in statements_of(prefix / "sql"):
        if "INDEX vector_index" in statement:
            index = attempt(statement)
            if not index and "Unknown Index type 'vector_similarity'" in failures.popitem()[1]:
                statement = re.sub(r",\n(?:    -- Cosine[^\n]*\n)?    INDEX vector_index[^\n]*", "", statement)
        attempt(statement)
    attempt(
        f"INSERT INTO inbox (dataset, source, bytes, attributes) SELECT 'holiday', _path, raw_blob, map('shape', 'x') FROM file('{pictures}/*.png', RawBLOB)"
    )
    nearest = ask("SELECT id FROM search_text(query = 'a red circle', k = 1)")
    attempt("INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a red circle')")
    attempt(
        "INSERT INTO labels (concept, image_id, positive) SELECT 'circles', id, rowNumberInAllBlocks() % 2 = 0 FROM next_to_label(concept = 'circles', k = 20)"
    )
    attempt(f"INSERT INTO labels (concept, image_id, positive) VALUES ('circles', {nearest}, true)")
    attempt("INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)")
    examples = 0
    for path in sql_files(prefix / "sql"):
        for found in sql_objects(path):
            if found.example:
                example = found.example.replace("image_id = 42", f"image_id = {nearest}")
                example = example.replace("/pictures/query.png", str(next(pictures.iterdir())))
                example = example.replace("'holiday/*.jpg'", f"'{pictures}/*.png'").replace("'/pictures'", f"'{pictures}'")
                examples += 1
                attempt(example)
    return Outcome(ask("SELECT version()"), index, examples, failures)


def table(outcomes: list[Outcome]) -> str:
    lines = ["| ClickHouse | SQL objects whose example ran | vector index |", "|---|---|---|"]
    for each in outcomes:
        index = "used" if each.index else "this chDB has none: exact scans"
        lines.append(f"| {each.version} | {each.examples - len(each.failures)} of {each.examples} | {index} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    import tempfile

    import numpy as np
    from tqdm import tqdm

    from vdx_udf.tiny.pictures import draw, sample_picture

    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        pictures, rng = Path(folder) / "pictures", np.random.default_rng(5)
        pictures.mkdir()
        for number in range(200):
            draw(sample_picture(rng)).save(pictures / f"{number}.png")
        for number, engine in enumerate(tqdm(ENGINES, unit=" engines")):
            there = Path(folder) / str(number)
            outcomes.append(check(environment(engine, there / "site"), there, pictures))
            for statement, error in outcomes[-1].failures.items():
                tqdm.write(f"{outcomes[-1].version}: {statement}: {error}")
    RESULT.write_text(table(outcomes))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(vars(run(*map(Path, sys.argv[1:])))))
    else:
        main()
