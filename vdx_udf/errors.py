"""What a person at the command line reads instead of a traceback."""

import re

from clickhouse_connect.driver.exceptions import ClickHouseError

from vdx_udf.install import InstallError
from vdx_udf.service import ServiceError

# ModelError is a RuntimeError of vdx_udf.model; naming it here would import torch for every command.
USER_ERRORS = (ClickHouseError, InstallError, ServiceError, RuntimeError, OSError)


def readable(error: BaseException) -> str:
    """The message without stack traces, and for a failed function the worker's own sentence first."""
    text = re.sub(r",? Stack trace \(when copying.*", "", str(error), flags=re.DOTALL)
    if worker := re.search(r"User defined function '\w+' failed.*Stderr: (.*?)\s*\. \(CHILD_WAS_NOT", text, re.DOTALL):
        text = worker.group(1)
    return " ".join(text.split()) or type(error).__name__
