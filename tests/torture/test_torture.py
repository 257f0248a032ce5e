"""The short form of `make torture`: every fault once, a few hundred queries under random ones, a moment of load."""

import json
import re
import subprocess
import sys

import pytest

from tests.torture.faults import CATALOGUE


@pytest.mark.long
@pytest.mark.timeout(2700)
def test_no_fault_gives_a_wrong_row_loses_one_or_goes_without_a_sentence(tmp_path):
    amounts = ("--repeat", "1", "--queries", "300", "--minutes", "0.3", "--rows", "20000", "--steps", "60", "--limit", "15")
    command = [sys.executable, "-m", "tests.torture", *amounts, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (tmp_path / "torture.json").exists(), done.stdout + done.stderr
    found = json.loads((tmp_path / "torture.json").read_text())
    wrong = re.findall(r"wrong: [^\r\n]*", done.stderr)  # behind a progress bar, maybe
    for row in (*found["faults"], found["load"]):
        assert (row["wrong_rows"], row["lost_rows"], row["failed_otherwise"]) == (0, 0, 0), (wrong, row)
    assert [row["fault"] for row in found["faults"][:-1]] == [fault.name for fault in CATALOGUE]
    assert all(row["times"] for row in found["faults"])
    assert found["ordinary"]["different"] == 0, found["ordinary"]["differences"]
    assert found["left_behind"] == {"processes": 0, "sockets": 0, "files": 0}
    assert done.returncode == 0
    assert (tmp_path / "torture.md").read_text() in done.stdout
