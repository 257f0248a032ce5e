"""What open_clip imports on its way and a model's answers do not need, left out: half of the time to the first answer."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from vdx_udf.encoder.model_name import config_file


@contextmanager
def only_what_answers_need(model: str) -> Iterator[None]:
    """For the first import of open_clip in a process that serves one model; what is left out can be imported afterwards.

    torch's compiler: torchvision's detection operators, which no CLIP has, import it to ask whether they are being compiled.
    transformers: open_clip takes some text towers from it, and does without where it is missing. Measured on a 2-core AMD
    EPYC (Zen 4): 1.5 and 0.6 s of 4.1 s of processor time, 150 and 20 MB.
    """
    left_out = {"torch._dynamo.utils": ModuleType("torch._dynamo.utils")}
    left_out["torch._dynamo.utils"].is_compile_supported = lambda device: False
    if not _text_tower_of_transformers(model):
        left_out["transformers"] = None  # an import of it raises ImportError
    left_out = {name: module for name, module in left_out.items() if name not in sys.modules}
    sys.modules.update(left_out)
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


def _text_tower_of_transformers(model: str) -> bool:
    """Also where the configuration cannot be read: loading the model then says why."""
    try:
        config = json.loads(config_file(model).read_text())
        return "hf_model_name" in config.get("model_cfg", config)["text_cfg"]
    except Exception:
        return True
