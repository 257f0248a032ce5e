"""What a model's name says: read without torch, which takes seconds to import."""

import json
from importlib.util import find_spec
from pathlib import Path

from vdx_udf.encoder.hub import cached_first
from vdx_udf.errors import ModelError

TINY_FOLDER = Path(__file__).parents[1] / "tiny" / "vdx-tiny"
SCHEMAS = ("hf-hub:", "local-dir:")
_CONFIG = "open_clip_config.json"


def full_name(name: str) -> str:
    """The name that open_clip knows: the bundled model is a local folder."""
    return f"local-dir:{TINY_FOLDER}" if name == "vdx-tiny" else name


def dimension_of(name: str) -> int:
    """The embedding dimension a model's configuration states; loads no weights. Raises ModelError."""
    try:
        config = json.loads(config_file(name).read_text())
    except ModelError:
        raise
    except Exception as error:  # of the file, of its hub, of what it holds
        raise ModelError(f"model {name!r}: its configuration cannot be read: {error}") from error
    return config.get("model_cfg", config)["embed_dim"]


def config_file(name: str) -> Path:
    """The model's configuration as open_clip reads it. Raises ModelError, and what the hub raises."""
    name = full_name(name)
    if name.startswith("local-dir:"):
        return Path(name.removeprefix("local-dir:")) / _CONFIG
    if name.startswith("hf-hub:"):
        from huggingface_hub import hf_hub_download

        return Path(cached_first(name, lambda: hf_hub_download(name.removeprefix("hf-hub:"), _CONFIG)))
    architecture = name.rpartition("/")[0]
    # Where open_clip keeps those that it knows; find_spec does not import it.
    path = Path(find_spec("open_clip").origin).parent / "model_configs" / f"{architecture}.json"
    if not architecture or not path.is_file():
        raise ModelError(f"model {name!r} is not known to open_clip; write ARCHITECTURE/TAG, for example ViT-B-32/openai")
    return path
