"""A batch through the model: one result an input, or the reason why that one has none."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from vdx_udf.encoder.image import shortened
from vdx_udf.encoder.tickets import EncodeError

log = logging.getLogger("vdx")
In, Out = TypeVar("In"), TypeVar("Out")


def each(work: Callable[[list[In]], Sequence[Out]], payloads: list[In]) -> list[Out | EncodeError]:
    """One result a payload, or the error that it met: a batch that fails is halved until the culprit is alone."""
    try:
        return list(work(payloads)) if payloads else []
    except Exception as error:
        reason = error if isinstance(error, EncodeError) else EncodeError(f"the model failed: {described(error)}")
        if len(payloads) == 1:
            return [reason]
        log.info("a batch of %d failed and is halved: %s", len(payloads), reason)
        half = len(payloads) // 2
        return each(work, payloads[:half]) + each(work, payloads[half:])


def vectors(model_pass: Callable[[list[In]], np.ndarray], payloads: list[In]) -> list[np.ndarray]:
    """The unit vectors of a batch, one array each: or a cached row would keep its whole batch in memory."""
    found = model_pass(payloads)
    if not np.isfinite(found).all():
        raise EncodeError("the model gave a vector that is not finite")
    return [vector.copy() for vector in found]


def described(error: Exception) -> str:
    """An exception's kind and text; a MemoryError has none."""
    return "no memory is left for it" if isinstance(error, MemoryError) else f"{type(error).__name__}: {shortened(str(error))}"
