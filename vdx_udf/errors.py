"""Errors with a message for the person at the command line, who reads it instead of a traceback."""

import re


class VdxError(Exception):
    """Something that a person can mend; the message says what and how."""


class InstallError(VdxError):
    """The bundle cannot be installed, found or removed."""


class ModelError(VdxError):
    """The model cannot be loaded."""


class ServiceError(VdxError):
    """The encoder service cannot start."""


def readable(error: BaseException) -> str:
    """The message without stack traces, and for a failed function the worker's own sentence first."""
    text = re.sub(r",? Stack trace \(when copying.*", "", str(error), flags=re.DOTALL)
    # What clickhouse-connect puts around a server's sentence, and around an embedded engine's not.
    text = re.sub(
        r"^Received ClickHouse exception, code: \d+, server response: (.*?)(?: \(for url \S+\))?$", r"\1", text, flags=re.DOTALL
    )
    text = re.sub(r"^Code: 395\. DB::Exception: (.*?): while executing 'FUNCTION throwIf.*", r"\1", text, flags=re.DOTALL)
    if killed := re.search(r"User defined function '(\w+)' failed.*terminated by signal (\d+)", text, re.DOTALL):
        text = (
            f"{killed.group(1)}: its worker process was ended by signal {killed.group(2)}, by hand or by the system for lack of"
            " memory; run the query again"
        )
    if broken := re.search(r"User defined function '(\w+)' failed.*Broken pipe", text, re.DOTALL):
        text = (
            f"{broken.group(1)}: its worker process ended before it took the query in, so ClickHouse knows no cause; run the"
            " query again, and look into function_counters and the encoder's log if that fails, too"
        )
    if worker := re.search(r"User defined function '\w+' failed.*Stderr: (.*?)\s*\. \(CHILD_WAS_NOT", text, re.DOTALL):
        text = worker.group(1)
    return " ".join(text.split()) or type(error).__name__
