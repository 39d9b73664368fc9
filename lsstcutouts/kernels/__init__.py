"""Loops over pixels that numpy cannot express, compiled by numba where it is installed (the extra ``fast``).

Each does what the plain path does, bit for bit, in one pass and without the interpreter lock; where one is None or
says that it cannot do a tile, the plain path does it. The environment variable ``LSSTCUTOUTS_KERNELS=plain`` leaves
them out.
"""

import os
from importlib.util import find_spec

__all__ = ["FUSED", "decode_rice", "paste_rows"]

if os.environ.get("LSSTCUTOUTS_KERNELS") != "plain" and find_spec("numba") is not None:
    from .paste import paste_rows
    from .rice import decode_rice

    FUSED = True
else:
    decode_rice = paste_rows = None  # type: ignore[assignment]
    FUSED = False
