"""Drops files from the page cache, and looks what is there."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["cached", "drop"]


def drop(files: Sequence[Path]) -> float:
    """Drop files from the page cache; return the part of them that is still there. No file may be mapped."""
    for file in files:
        with file.open("rb") as open_file:
            os.posix_fadvise(open_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached(files)


def cached(files: Sequence[Path]) -> float:
    """Return the part of files that the page cache holds, without reading from them (mincore(2), Linux)."""
    held = pages = 0
    for file in (file for file in files if file.stat().st_size):
        with file.open("rb") as open_file, mmap.mmap(open_file.fileno(), 0, prot=mmap.PROT_READ) as whole:
            of_file = np.empty(-(-len(whole) // mmap.PAGESIZE), np.uint8)
            start = np.frombuffer(whole, np.uint8)
            asked = (
                ctypes.c_void_p(start.ctypes.data),
                ctypes.c_size_t(len(whole)),
                ctypes.c_void_p(of_file.ctypes.data),
            )
            if ctypes.CDLL(None, use_errno=True).mincore(*asked):
                raise OSError(ctypes.get_errno(), f"mincore of {file}")
            del start  # a map with a view can't be closed
            held, pages = held + int((of_file & 1).sum()), pages + len(of_file)
    return held / pages
