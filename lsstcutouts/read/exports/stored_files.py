"""The open files of an export, and which of them are read ahead."""

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...plan.stored_pixels import StoredPixels
from ...source.limits import available_memory
from ...source.locks import ForkLock
from .stored_columns import StoredColumn
from .stored_file import GroupCache, StoredFile

__all__ = ["StoredFiles"]

_MOST_OPEN = 200
"""Files that are open at a time; a process may have 1024, by default, and a training has several readers."""

_MOST_KNOWN = 4000
"""Files of which it is known where their rows stand: some 10 kB each."""

_GROUP_BYTES = 2**28
"""Bytes of the row groups of files that can only be read as a whole."""

_FORGOTTEN = 64
"""Batches after which a file that none of them read may have left the page cache."""


class StoredFiles:
    """Opens the files of an export as they are needed; used by several threads. Pickles without open files.

    Parameters
    ----------
    pixels
        Where the rows of a plan stand.
    columns
        What will be read, by plane.
    """

    def __init__(self, pixels: StoredPixels, columns: Mapping[str, StoredColumn]) -> None:
        self._pixels, self._columns = pixels, columns
        self._lock = ForkLock()
        self._opening: dict[int, Lock] = {}
        self._known: OrderedDict[int, StoredFile] = OrderedDict()
        self._open: OrderedDict[int, StoredFile] = OrderedDict()
        self._groups = GroupCache(_GROUP_BYTES)
        self._used: dict[int, int] = {}
        self._batch = 0

    def __reduce__(self) -> tuple[type["StoredFiles"], tuple[StoredPixels, Mapping[str, StoredColumn]]]:
        return StoredFiles, (self._pixels, self._columns)

    def begin(self, files: NDArray[np.int64]) -> tuple[list[int], bool]:
        """Begin a batch that reads some files.

        Returns
        -------
        list of int
            The files that were not read lately.
        bool
            Whether they should be read ahead. Not if the files that are in use do not fit into half of the memory: then rows
            of so many files are mixed that what is read ahead would be dropped before it is needed.
        """
        with self._lock:
            self._batch += 1
            fresh = [file for file in files.tolist() if self._used.get(file, -_FORGOTTEN) <= self._batch - _FORGOTTEN]
            self._used.update(dict.fromkeys(files.tolist(), self._batch))
            if not fresh:
                return [], False
            self._used = {file: at for file, at in self._used.items() if at > self._batch - _FORGOTTEN}
            in_use = sum(self._pixels.sizes[file] for file in self._used)
        return fresh, in_use < available_memory() / 2

    def open(self, file: int) -> StoredFile:
        """Return a file.

        Raises
        ------
        ReadError
            If it does not exist or cannot be read, or is not the file that was exported.
        """
        with self._lock:
            found = self._known.get(file)
            if found is not None:
                self._note(file, found)
                return found
            lock = self._opening.setdefault(file, Lock())
        with lock:
            with self._lock:
                found = self._known.get(file)
            if found is None:
                found = StoredFile(self._pixels, file, self._columns, self._groups)
            with self._lock:
                self._note(file, found)
                self._opening.pop(file, None)
        return found

    def _note(self, file: int, found: StoredFile) -> None:
        """Note that a file is used, and close those that were not used for longest."""
        self._known[file] = self._open[file] = found
        self._known.move_to_end(file)
        self._open.move_to_end(file)
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def close(self) -> None:
        """Close all files; a later read opens them again. Neither waits nor locks."""
        for file in tuple(self._open.values()):
            file.close()
