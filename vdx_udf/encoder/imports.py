"""What open_clip imports on its way and a model's answers do not need, left out: most of the time to the first answer."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from vdx_udf import settings
from vdx_udf.encoder.model_name import config_file


@contextmanager
def only_what_answers_need(model: str) -> Iterator[None]:
    """For the first import of open_clip in a process that serves one model; what is left out can be imported afterwards.

    torchvision's operators for ONNX and open_clip's uploads, which no answer needs. transformers and timm: open_clip takes some
    towers from them, and does without where they are missing. Where timm is not asked for, nobody asks for torchvision's own
    models and data sets, nor for torch's compiler, which its detection operators import to ask whether they are being compiled.
    Measured on a 2-core AMD EPYC (Zen 4), of 4.4 s of processor time and 870 MB: transformers 0.6 s, timm 0.3, the models 0.1,
    the compiler 1.5, uploads and operators 0.15.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", settings.SPIN_COUNT)  # read when torch is loaded, which open_clip does
    left_out: dict = dict.fromkeys(_packages_of_other_models(model))  # an import of None raises ImportError
    without = {
        "torchvision.ops._register_onnx_ops": {"_register_custom_op": lambda: None},
        "open_clip.push_to_hf_hub": {"push_to_hf_hub": None, "push_pretrained_to_hf_hub": None},
    }
    if "timm" in left_out:
        without["torch._dynamo.utils"] = {"is_compile_supported": lambda device: False}
        without |= {"torchvision.models": {}, "torchvision.datasets": {}}
    for name, what_is_asked_for in without.items():
        left_out[name] = ModuleType(name)
        vars(left_out[name]).update(what_is_asked_for)
    left_out = {name: module for name, module in left_out.items() if name not in sys.modules}
    sys.modules.update(left_out)
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


def _packages_of_other_models(model: str) -> list[str]:
    """Those of transformers and timm that neither tower comes from; none where no configuration is found: loading says why."""
    try:
        config = json.loads(config_file(model).read_text())
        towers = config.get("model_cfg", config)
        names = {"transformers": towers["text_cfg"].get("hf_model_name"), "timm": towers["vision_cfg"].get("timm_model_name")}
        return [package for package, name in names.items() if not name]
    except Exception:
        return []
