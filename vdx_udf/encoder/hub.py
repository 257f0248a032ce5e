"""Weights from a hub: those that are here are taken as they are, others are fetched with a progress bar, or it says so at once.

Asking the hub for newer files of what is here already would cost a start without network a minute, and vectors of other
weights would not compare.
"""

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from vdx_udf.errors import ModelError

SECONDS = 3  # that the hub has to answer whether it is there
Loaded = TypeVar("Loaded")


def needs_hub(name: str) -> bool:
    """Whether a model's weights come from a hub at all."""
    return name != "vdx-tiny" and not name.startswith("local-dir:") and not name.endswith("/random")


def cached_first(name: str, load: Callable[[], Loaded]) -> Loaded:
    """What `load` gives from files that are here or, where some are not, from the hub. Raises ModelError if neither can be."""
    if not needs_hub(name):
        return load()
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = True
        logging.disable(logging.ERROR)  # what is missing is no error yet
        return load()
    except ModelError:
        raise
    except Exception:
        if was_offline:
            raise
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logging.disable(logging.NOTSET)
    refuse_without_hub(name)
    return load()


def refuse_without_hub(name: str) -> None:
    """Raises ModelError, within SECONDS, where the hub cannot be reached."""
    from huggingface_hub import constants

    answers: queue.Queue[str] = queue.Queue()
    # On a thread: looking a name up has no time limit of its own.
    threading.Thread(target=lambda: answers.put(_unreachable(constants.ENDPOINT)), daemon=True).start()
    try:
        reason = answers.get(timeout=SECONDS)
    except queue.Empty:
        reason = f"no answer within {SECONDS} s"
    if reason:
        raise ModelError(
            f"{name}: its weights are not on this machine and {constants.ENDPOINT} cannot be reached ({reason});"
            " --model vdx-tiny, the bundled model, needs no network; --model local-dir:PATH takes weights that you have"
        )


def refuse_on_an_empty_cache(name: str) -> None:
    """The same at once, without torch, where no weights of any model are here; otherwise loading tells. Raises ModelError."""
    from huggingface_hub import constants

    if needs_hub(name) and not any(Path(constants.HF_HUB_CACHE).glob("models--*")):
        refuse_without_hub(name)


def _unreachable(address: str) -> str:
    """Why nothing answers there; empty where something does, whatever it says."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))[:100]
    return ""
