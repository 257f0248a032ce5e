"""What a service leaves out of its imports: it answers the same, and what was left out can be had afterwards."""

import json
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
from vdx_udf.encoder.imports import only_what_answers_need
LEFT_OUT = ("torch._dynamo", "torch._dynamo.utils", "torchvision.models", "torchvision.datasets", "timm", "transformers",
            "torch.onnx", "torchvision.ops._register_onnx_ops", "open_clip.push_to_hf_hub")
with only_what_answers_need("vdx-tiny"):
    from vdx_udf.encoder.model import Clip
clip = Clip("vdx-tiny", "float32", "cpu")
found = {"there": [name for name in LEFT_OUT if name in sys.modules]}
found["vectors"] = clip.encode_texts(["a red circle", ""]).tolist()
import timm, torch._dynamo.utils, torchvision.models, torchvision.datasets, transformers
import open_clip.push_to_hf_hub as uploads, torchvision.ops._register_onnx_ops as operators
there = {torch._dynamo.utils: "counters", transformers: "AutoModel", timm: "create_model", torchvision.models: "resnet18",
         torchvision.datasets: "ImageFolder", uploads: "save_config_for_hf", operators: "roi_pool"}
found["afterwards"] = [hasattr(module, name) for module, name in there.items()]
print(json.dumps(found))
"""


def test_a_service_answers_without_what_other_models_need(clip):
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["there"] == []
    assert found["afterwards"] == [True] * 7
    np.testing.assert_allclose(found["vectors"], clip.encode_texts(["a red circle", ""]), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "imported"),
    [
        ("ViT-B-32/openai", set()),
        pytest.param("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", {"transformers"}, marks=pytest.mark.long),
        ("ViT-B-16-SigLIP/webli", {"timm"}),
        ("no-such-model/tag", {"timm", "transformers"}),
    ],
)
def test_the_package_that_a_tower_comes_from_is_imported(model, imported):
    program = (
        "import sys; from vdx_udf.encoder.imports import only_what_answers_need\n"
        f"with only_what_answers_need({model!r}): import open_clip\nprint(*sys.modules.keys() & {{'timm', 'transformers'}})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == imported
