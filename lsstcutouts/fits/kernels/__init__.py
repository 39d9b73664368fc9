"""Loops that numpy cannot express, compiled by numba where it is installed.

Each gives the same bits as the NumPy path, without the interpreter lock (GIL). The NumPy path is used if a kernel is
None or does not support a tile. The environment variable ``LSSTCUTOUTS_KERNELS=plain`` disables the kernels.
"""

import logging
import os
import threading
from functools import cache
from importlib.util import find_spec

import numpy as np

__all__ = ["FUSED", "decode_rice", "load_kernels", "paste_rows", "read_runs"]

if os.environ.get("LSSTCUTOUTS_KERNELS") != "plain" and find_spec("numba") is not None:
    from .paste import paste_rows
    from .read import read_runs
    from .rice import decode_rice

    FUSED = True
else:
    decode_rice = paste_rows = read_runs = None  # type: ignore[assignment]
    FUSED = False


_LOG = logging.getLogger(__name__)

_LONG_SECONDS = 1.5
_COMPILING = "loading the kernels; the first time on this machine they are compiled, which takes some 5 seconds"


@cache
def load_kernels() -> None:
    """Load the machine code before the first batch: takes half a second, once per process.

    The first time, it is compiled, which takes several seconds and is said in the log, and then cached on disk.
    """
    if not FUSED:
        return
    waiting = threading.Timer(_LONG_SECONDS, _LOG.warning, [_COMPILING])
    waiting.daemon = True
    waiting.start()
    try:
        _call_with_nothing()
    finally:
        waiting.cancel()


def _call_with_nothing() -> None:
    """Call each kernel with the types of its arguments: numba compiles it, or loads what it has compiled before."""
    addresses, numbers, floats = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0)
    decode_rice(
        addresses, addresses, addresses, numbers, 32, 1, floats, floats, floats, numbers, numbers, True, numbers, False
    )
    read_runs(numbers, numbers, numbers, addresses, numbers, np.frombuffer(bytes(1), np.uint8))
    paste_rows(np.zeros((0, 8), np.int64), addresses, numbers, 0, 0, 0)
