"""What the gate found of a model on this processor, remembered beside the service's socket: measuring it takes seconds."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vdx_udf import __version__
from vdx_udf.encoder import processor
from vdx_udf.encoder.quantized import Range, Ranges, adds_in_16_bits


class Verdict(NamedTuple):
    """A precision and why it is used. `ranges`: of int8, by tower; `modules`: open_clip's own modules compute."""

    precision: str
    weights_hash: str
    parity: float = 0.0
    reason: str = ""
    ranges: dict[str, list[Ranges]] = {}
    modules: bool = False

    @staticmethod
    def recall(file: Path | None, name: str, wanted: str, device: torch.device) -> "Verdict | None":
        """What was kept for this model, precision, processor and version; None where there is nothing that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            known = json.loads(file.read_text())
            if known.pop("of") == _circumstances(name, wanted, device):
                known["ranges"] = {tower: [_ranges(each) for each in found] for tower, found in known["ranges"].items()}
                return Verdict(**known)
        return None

    def keep(self, file: Path | None, name: str, wanted: str, device: torch.device) -> None:
        """Written at once or not at all; that a disk is full costs the next load its time."""
        if file:
            content = json.dumps({"of": _circumstances(name, wanted, device), **self._asdict()})
            with suppress(OSError), tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
                new.write(content)
                new.flush()
                os.replace(new.name, file)


def _ranges(kept: list) -> Ranges:
    return Ranges(*(Range(most, {int(column): count for column, count in parts.items()}) for most, parts in kept))


def _circumstances(name: str, wanted: str, device: torch.device) -> dict[str, Any]:
    """All that a verdict depends on beside the weights, which it names itself."""
    no_int8 = processor.fault("int8")
    return {
        "model": name,
        "wanted": wanted,
        "device": str(device),
        "versions": [__version__, torch.__version__],
        "processor": [torch.backends.cpu.get_cpu_capability(), str(sorted(torch.cpu.get_capabilities().items()))],
        "found": [processor.fault("bfloat16"), no_int8, processor.has_bfloat16_units(), no_int8 or adds_in_16_bits()],
    }
