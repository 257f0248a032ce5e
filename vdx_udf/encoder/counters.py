"""What the service counts; encoder_info() answers it, the views of sql/12_observe.sql read it."""

import threading

from vdx_udf import contract


class Counters:
    """Numbers and last errors by name, such as `encode_text.rows`; the names are the contract's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, int | float | str] = {
            name: "" if name.endswith("last_error") else 0.0 if name.endswith("seconds") else 0 for name in contract.COUNTERS
        }

    def add(self, part: str, **amounts: int | float) -> None:
        """Adds to several counters of one part, a function's name or a kind of input."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[f"{part}.{name}"] += amount

    def failed(self, function: str, error: str, rows: int) -> None:
        """Notes rows that a function answered with an error, or a block that it failed, and the sentence."""
        with self._lock:
            self._values[f"{function}.errors"] += rows
            self._values[f"{function}.last_error"] = error
            self._values["last_error"] = error

    def all(self) -> dict[str, str]:
        """Every counter as text, seconds to the millisecond."""
        with self._lock:
            return {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in self._values.items()}
