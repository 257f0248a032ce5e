"""`python -m vdx_udf` is the `vdx` command."""

from vdx_udf.commands.cli import main

main(prog_name="vdx")
