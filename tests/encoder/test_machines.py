"""CPUs that have less than this one, as masks make them for every process that inherits them, the encoder service too.

oneDNN's mask decides over the towers' products, torch's over everything else that it computes. Both can only take away: a
CPU that has less than a mask allows stays what it is.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import vdx
from vdx_udf.encoder import processor, quantized
from vdx_udf.installer.install import stop_encoder
from vdx_udf.installer.layout import Layout

ROOT = Path(__file__).parents[2]
LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
MASKS = {  # and whether they leave bfloat16, and sums of 32 bits in products of 8
    "neither AVX2 nor AVX": ({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, False, False),
    "AVX2": (LAPTOP, False, False),
    "AVX512 without VNNI": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, True, False),
    "AVX512 without BF16": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, True, True),
}
TESTS = ("encoder/test_model.py", "encoder/test_functions.py::test_lower_precisions_are_close_and_find_the_same")
CHOSEN = "towers_compute or gate or chosen or verdict or weights_are or (lower_precisions and tiny)"
SAYS = """
import torch
from vdx_udf.encoder import processor, quantized
print(",".join(processor.candidates("auto", torch.device("cpu"))), quantized.adds_in_16_bits())
print(*[name for name in processor.NEEDS if not processor.fault(name)])
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the masks are of x86-64 instructions"),
]


def run(*command: object, mask: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, env=os.environ | mask)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not LAPTOP.keys().isdisjoint(os.environ), reason="beneath a mask nobody knows what another one leaves")
@pytest.mark.parametrize("name", MASKS)
def test_a_precision_is_there_where_its_product_is_right(name):
    mask, bfloat16, wide = MASKS[name]
    best, narrow, *found = run("-c", SAYS, mask=mask).split()
    wide, bfloat16 = wide and not quantized.adds_in_16_bits(), bfloat16 and not processor.fault("bfloat16")
    assert narrow == str(not wide)
    # bfloat16 by way of float32's instructions is slower than these themselves; whether narrow int8 is faster is measured
    assert best in (("int8,float32",) if wide else ("int8,float32", "float32"))
    assert found == ["bfloat16"] * bfloat16 + ["int8"]


def test_the_models_tests_hold_on_a_laptop():
    """And those of a precision that is not there are skipped with the reason."""
    said = run("-m", "pytest", "-p", "no:cacheprovider", "-k", CHOSEN, *(f"tests/{test}" for test in TESTS), mask=LAPTOP)
    skipped = re.findall(r"^SKIPPED .*: this CPU does not compute in (\w+): a matrix product", said, re.MULTILINE)
    assert set(skipped) == {"bfloat16"}


def test_a_query_is_answered_as_everywhere(tmp_path, clip):
    """The installation's default, through engine, worker and a service that has the mask from the server's environment."""
    prefix = tmp_path / "engine"
    vdx("install", "--prefix", prefix, "--model", "vdx-tiny", "--device", "cpu")
    query = "SELECT encoder_info()['precision'], encode_text('a red circle'), encoder_info()['pid']"
    done = vdx("sql", "--prefix", prefix, "-f", prefix / "sql", "-q", query, env=os.environ | LAPTOP)
    precision, vector, pid = done.stdout.strip().split("\t")
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    stop_encoder(Layout.embedded(prefix))
    assert precision == "float32"
    assert np.array(eval(vector), np.float32) @ clip.encode_texts(["a red circle"])[0] > 0.99999
    assert {f"{name}={value}".encode() for name, value in LAPTOP.items()} <= set(environment)


def test_an_installation_in_what_the_cpu_lacks_is_refused(tmp_path):
    options = ("--prefix", tmp_path / "engine", "--model", "vdx-tiny", "--precision", "bfloat16")
    done = vdx("install", *options, "--device", "cpu", check=False, env=os.environ | LAPTOP)
    assert done.returncode == 1
    assert re.search(
        "^Error: bfloat16 needs a CPU with .* instructions, which this one lacks: a matrix product .*; use auto, which is"
        " (int8 or )?float32 here$",
        done.stderr,
        re.MULTILINE,
    ), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "engine").exists()
    vdx("install", *options, "--device", "cuda:0", env=os.environ | LAPTOP)  # its encoder asks nothing of the CPU
