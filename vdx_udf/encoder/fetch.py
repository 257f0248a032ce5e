"""Loads a model once, so that its files are here and checked before a query waits for them: `vdx install` runs this.

`python -m vdx_udf.encoder.fetch MODEL PRECISION [WEIGHTS_HASH]`; what is wrong is said on standard output.
"""

import sys

from vdx_udf.encoder.model import Clip
from vdx_udf.errors import ModelError

if __name__ == "__main__":
    name, precision, *weights_hash = sys.argv[1:]
    try:
        Clip(name, precision, None, *weights_hash)
    except ModelError as error:
        print(error)
        sys.exit(1)
