"""Renders functions/*_function.xml from the contract and the settings: `python -m vdx_udf.installer.functions_xml`.

The files are committed so that they can be read and copied; a test compares them with what this module renders.
"""

from pathlib import Path
from xml.sax.saxutils import escape

from vdx_udf import contract, settings
from vdx_udf.installer.bundle import bundle_folder

WHY = {
    "pool_size": "worker processes for this function, about 10 MB each; the model lives in the one encoder service",
    "max_command_execution_time": "seconds to wait for a free worker when all are busy",
    "command_read_timeout": (
        "milliseconds of silence, not of total time: longer than a worker waits for a service that loads its model"
        f" ({settings.START_SECONDS} s), and than one batch on a slow CPU"
    ),
    "command_write_timeout": "milliseconds; a large block is taken in only as fast as the model works",
    "command_termination_timeout": "seconds from end of input to SIGTERM; a worker exits at once, so this is never reached",
    "stderr_reaction": "log_last adds the worker's last words to the exception; `throw` would fail queries on any warning",
    "check_exit_code": "an answer that is incomplete fails with the worker's exit code",
    "lifetime": "never restart the pool on a timer: a restart ends workers in the middle of queries",
    "command_pipe_capacity": "bytes (1 MiB): twice the speed of the default for Native blocks; older servers ignore it",
}


def render(function: contract.Function) -> str:
    """The XML file of one function."""
    pool = "".join(
        f"        <!-- {escape(WHY[name])} -->\n        <{name}>{value}</{name}>\n" for name, value in function.pool().items()
    )
    arguments = "".join(
        f"        <argument>\n            <type>{kind}</type>\n            <name>{name}</name>\n        </argument>\n"
        for name, kind in function.arguments
    )
    return f"""<!-- {escape(function.signature)} returns {escape(function.returns)}:
     {escape(function.meaning)}.
     Rendered by `python -m vdx_udf.installer.functions_xml`; change vdx_udf/contract.py or vdx_udf/settings.py instead. -->
<functions>
    <function>
        <type>executable_pool</type>
        <name>{function.name}</name>
{arguments}        <return_type>{function.returns}</return_type>
        <!-- the answer's column must carry this name: ClickHouse fills any other with defaults, silently -->
        <return_name>{contract.RESULT}</return_name>
        <!-- binary both ways: text formats take 20 s where Native takes 0.07 s for 65,536 vectors of 512 floats -->
        <format>Native</format>
        <command>{function.name}</command>
        <!-- 1: the same input always gives the same answer while the model stays the same -->
        <deterministic>{int(function.deterministic)}</deterministic>
{pool}    </function>
</functions>
"""


def path_of(folder: Path, function: contract.Function) -> Path:
    return folder / f"{function.name}_function.xml"


if __name__ == "__main__":
    for each in contract.FUNCTIONS.values():
        path_of(bundle_folder("functions"), each).write_text(render(each))
