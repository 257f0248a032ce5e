"""What people install: wheel and sdist, built from the checkout and used away from it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "requirements.txt"


def run(*command: object, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


def link_torch(packages: Path) -> None:
    """torch and CUDA's libraries of this environment, in another's folder of packages without their 5 GB a second time."""
    for installed in distributions():
        if re.match("torch$|triton$|nvidia-|cuda-", installed.name):
            for file in installed.files:
                if ".." not in file.parts:
                    target = packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        os.link(file.locate(), target)
                    except OSError:  # another disk
                        shutil.copy2(file.locate(), target)


def contents(archive: Path) -> dict[str, int]:
    with zipfile.ZipFile(archive) as files:
        return {entry.filename: entry.CRC for entry in files.infolist() if "dist-info/RECORD" not in entry.filename}


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    assert contents(tmp_path / wheel.name) == contents(wheel)


def test_the_wheel_carries_what_is_installed_and_shown(wheel):
    names = set(contents(wheel))
    for folder, inside in (("sql", "bundle/sql"), ("functions", "bundle/functions"), ("vdx_udf/page", "page")):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {f"vdx_udf/{inside}/{path.relative_to(ROOT / folder)}" for path in files} <= names


@pytest.mark.long
def test_an_empty_environment_runs_the_demo(wheel, tmp_path):
    """As `pipx install vdx-udf && vdx demo --quick` does, with the versions that the tests use."""
    venv.create(tmp_path / "env", with_pip=True)
    link_torch(Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})))
    pins = re.sub(r"^ +(--hash|#).*\n", "", LOCK.read_text(), flags=re.MULTILINE).replace(" \\\n", "\n")
    (tmp_path / "pins.txt").write_text(pins)
    run(tmp_path / "env" / "bin" / "pip", "install", "--constraint", tmp_path / "pins.txt", wheel)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VDX", "VIRTUAL_ENV"))}
    shown = run(tmp_path / "env" / "bin" / "vdx", "demo", "--quick", cwd=tmp_path, env=clean)
    assert "demo-output/report.json" in shown
    assert (tmp_path / "demo-output" / "report.json").is_file()
