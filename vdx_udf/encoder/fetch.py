"""Loads a model once, so that its files are here and checked before a query waits for them: `vdx install` runs this.

`python -m vdx_udf.encoder.fetch MODEL [WEIGHTS_HASH]`; what is wrong is said on standard output. In float32 on the CPU,
which every machine has: the hash is the same in every precision, and a GPU need not be here yet.
"""

import sys

from vdx_udf.encoder.imports import only_what_answers_need
from vdx_udf.errors import ModelError

if __name__ == "__main__":
    name, *weights_hash = sys.argv[1:]
    with only_what_answers_need(name):
        from vdx_udf.encoder.model import Clip
    try:
        Clip(name, "float32", "cpu", *weights_hash)
    except ModelError as error:
        print(error)
        sys.exit(1)
