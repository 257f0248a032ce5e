"""Fetches a model's weights when it is installed, with a progress bar, as the user and in the environment of its service."""

import os
import shutil
import subprocess
import sys

from vdx_udf.encoder.hub import needs_hub, refuse_on_an_empty_cache
from vdx_udf.encoder.model_name import dimension_of
from vdx_udf.errors import ModelError
from vdx_udf.installer.layout import Layout


def fetch(layout: Layout, model: str, weights_hash: str | None = None) -> None:
    """Has the weights in the cache that the encoder service reads, checked as it checks them. Raises ModelError.

    Weights that are there already are only checked; a model that comes from no hub is not even that.
    """
    if not needs_hub(model):
        return
    dimension_of(model)  # a name with a mistake in it is said at once
    if layout.data:  # the cache is that of whoever runs this
        refuse_on_an_empty_cache(model)
    else:
        layout.models.mkdir(parents=True, exist_ok=True)
        if layout.owner:
            shutil.chown(layout.models, user=layout.owner)
    command = [sys.executable, "-m", "vdx_udf.encoder.fetch", model, *([weights_hash] if weights_hash else [])]
    # Standard error shows the progress; the last line of it is not known then, so a reason comes on standard output.
    done = subprocess.run(
        command, cwd="/", env=os.environ | layout.environment, user=layout.owner, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise ModelError(done.stdout.strip() or f"the weights of {model!r} could not be fetched: see above")
