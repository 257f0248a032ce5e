#!/bin/bash
# Makes HOME/venv with the locked versions of what the package itself needs: environment.sh HOME [TORCH_INDEX]
set -euo pipefail
home=$1 torch_index=${2:-}
python3 -m venv "$home/venv"
pip=("$home/venv/bin/pip" install --no-cache-dir --disable-pip-version-check)
# The locked versions as constraints: the package's own dependencies are installed, those of its tests are not. Without
# hashes, since another index has other files of the same version.
"$home/venv/bin/python" - "$home" <<'PYTHON'
import re, sys
from pathlib import Path

home = Path(sys.argv[1])
lock = re.sub(r"^ +(--hash|#).*\n", "", (home / "requirements.txt").read_text(), flags=re.MULTILINE).replace(" \\\n", "\n")
(home / "constraints.txt").write_text(lock)
listed = re.search(r"^dependencies = \[\n(.*?)^\]", (home / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
(home / "dependencies.txt").write_text("\n".join(re.findall(r'^\s+"(.+)",$', listed.group(1), re.MULTILINE)) + "\n")
PYTHON
if [ -n "$torch_index" ]; then
    "${pip[@]}" --constraint "$home/constraints.txt" --index-url "$torch_index" torch torchvision
fi
"${pip[@]}" --constraint "$home/constraints.txt" --requirement "$home/dependencies.txt"
