"""What a service leaves out of its imports: it answers the same, and what was left out can be had afterwards."""

import json
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
from vdx_udf.encoder.imports import only_what_answers_need
with only_what_answers_need("vdx-tiny"):
    from vdx_udf.encoder.model import Clip
clip = Clip("vdx-tiny", "float32", "cpu")
found = {"there": [name for name in ("torch._dynamo", "torch._dynamo.utils", "transformers") if name in sys.modules]}
found["vectors"] = clip.encode_texts(["a red circle", ""]).tolist()
import torch._dynamo.utils, transformers
found["afterwards"] = [hasattr(torch._dynamo.utils, "counters"), hasattr(transformers, "AutoModel")]
print(json.dumps(found))
"""


def test_a_service_answers_without_torchs_compiler_and_transformers(clip):
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["there"] == []
    assert found["afterwards"] == [True, True]
    np.testing.assert_allclose(found["vectors"], clip.encode_texts(["a red circle", ""]), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "imported"),
    [("ViT-B-32/openai", False), pytest.param("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", True, marks=pytest.mark.long)],
)
def test_transformers_is_imported_for_a_text_tower_of_its_own(model, imported):
    program = (
        "import sys; from vdx_udf.encoder.imports import only_what_answers_need\n"
        f"with only_what_answers_need({model!r}): import open_clip\nsys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == imported
