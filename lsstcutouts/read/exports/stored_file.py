"""One file of an export: where the rows of its columns stand, and how they are read."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...catalog.ids import Ids
from ...errors import CorruptFileError
from ...fits.kernels import read_runs
from ...plan.stored_pixels import StoredPixels, hash_of_ids
from ...source.read_errors import translate_errors
from ..memory import address_of
from .pages import Chunk, locate_values
from .stored_columns import StoredColumn

__all__ = ["GroupCache", "OpenedFile", "StoredFile"]

_AHEAD = 2**19
"""Bytes that the kernel is asked for at once: it reads no more than a few MB of what one call asks for (docs/layouts.md)."""

_NO_PADDING = np.frombuffer(bytes(1), np.uint8)

_REMEDY = "copy the export again, or export again"


class OpenedFile:
    """An open file; closed when nothing refers to it any more, so that a thread may read while others let go of it."""

    __slots__ = ("number", "state")

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        found = os.fstat(self.number)
        self.state = found.st_ino, found.st_size, found.st_mtime_ns

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.state[1]

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, fewer at the end of the file."""
        return os.pread(self.number, length, offset)


class GroupCache:
    """Row groups that were decoded as a whole, bounded in bytes; the latest one is always kept.

    Parameters
    ----------
    most_bytes
        Bytes of all groups together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._groups: OrderedDict[tuple[str, int, str], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[type["GroupCache"], tuple[int]]:
        return GroupCache, (self._most_bytes,)

    def get(self, key: tuple[str, int, str]) -> NDArray[Any] | None:
        """Return a group if it is here."""
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
            return self._groups.get(key)

    def put(self, key: tuple[str, int, str], rows: NDArray[Any]) -> None:
        """Keep a group, instead of those that were not used for longest."""
        with self._lock:
            if key not in self._groups:
                self._groups[key] = rows
                self._bytes += rows.nbytes
            while self._bytes > self._most_bytes and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes


class StoredFile:
    """Reads rows of a file, numbered among those that have pixels; several threads may.

    Parameters
    ----------
    pixels, file
        The file is the one of this index.
    columns
        What will be read, by plane.
    groups
        Keeps row groups that are decoded as a whole.

    Raises
    ------
    CorruptFileError
        If it is not the file that was exported: it ends early, has other rows, or other columns.
    """

    def __init__(
        self, pixels: StoredPixels, file: int, columns: Mapping[str, StoredColumn], groups: GroupCache
    ) -> None:
        self.path = str(Path(pixels.folder) / pixels.paths[file])
        self._columns, self._groups, self._lock = columns, groups, Lock()
        self._count, self._ids = pixels.counts[file], pixels.ids[file]
        with translate_errors(self.path):
            self._descriptor: OpenedFile | None = OpenedFile(self.path)
        self._state = self._descriptor.state
        self._parquet: Any = None
        self._find(self._descriptor)
        self.used = -1
        """When it was last read."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._state[1]

    def _find(self, descriptor: OpenedFile) -> None:
        """Check that these are the rows that were exported, and find where they stand."""
        try:
            with pq.ParquetFile(self.path) as parquet:
                footer, kinds = parquet.metadata, parquet.schema_arrow
                if (footer.serialized_size + 8 > descriptor.size) or not self._is_same(parquet):
                    raise CorruptFileError(f"{self.path} has other rows than those that were exported; {_REMEDY}")
                lacking = [c.name for c in self._columns.values() if kinds.get_field_index(c.name) < 0]
                if lacking:
                    raise CorruptFileError(f"{self.path} has no column {lacking[0]!r}; {_REMEDY}")
                self._locate(parquet, footer, descriptor)
        except (OSError, pyarrow.ArrowException) as error:
            if isinstance(error, CorruptFileError):
                raise
            raise CorruptFileError(f"{self.path} cannot be read: {error}; {_REMEDY}") from error

    def _is_same(self, parquet: Any) -> bool:
        """Return whether the rows have the ids of those that were exported, in the same order."""
        if parquet.schema_arrow.get_field_index("object_id") < 0:
            return False
        column = parquet.read(columns=["object_id"], use_threads=False)["object_id"]
        if pyarrow.types.is_integer(column.type):
            numbers = column.to_numpy()
            ids: Ids = numbers.astype(np.uint64 if numbers.dtype.kind == "u" else np.int64)
        else:
            ids = column.to_pylist()
            if None in ids:
                return False
        return hash_of_ids(ids) == self._ids

    def _locate(self, parquet: Any, footer: Any, descriptor: OpenedFile) -> None:
        """Find the first value of each row group in each column, and the rows of the groups that have pixels."""
        kinds, schema = parquet.schema_arrow, footer.schema
        paths = [schema.column(at).path for at in range(len(schema))]
        at_of = {
            c.name: [at for at, path in enumerate(paths) if path.split(".")[0] == c.name]
            for c in self._columns.values()
        }
        self._offsets: dict[str, NDArray[np.int64]] = {}
        counted: NDArray[np.int64] | None = None
        groups = [footer.row_group(at) for at in range(footer.num_row_groups)]
        for plane, column in self._columns.items():
            places = at_of[column.name]
            if len(places) != 1 or not column.fits(kinds.field(column.name).type):
                continue
            leaf = schema.column(places[0])
            levels = leaf.max_repetition_level > 0, leaf.max_definition_level > 0
            offsets, rows = [], []
            for group in groups:
                chunk = group.column(places[0])
                found = None
                if chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page:
                    length = chunk.total_compressed_size
                    about = Chunk(chunk.data_page_offset, length, chunk.num_values, group.num_rows, *levels)
                    if about.offset + length <= descriptor.size:
                        found = locate_values(descriptor.read, about, column.values, column.bits)
                if found is None:
                    break
                offsets.append(found.offset)
                rows.append(found.rows)
            else:
                self._offsets[plane] = np.array(offsets, np.int64)
                if counted is not None and counted.tolist() != rows:
                    raise CorruptFileError(f"{self.path}: columns have pixels of different rows; {_REMEDY}")
                counted = np.array(rows, np.int64)
        if counted is None:
            name = self._columns["wcs"].name
            each = (parquet.read_row_group(at, columns=[name], use_threads=False)[name] for at in range(len(groups)))
            counted = np.array([len(one) - one.null_count for one in each], np.int64)
        if int(counted.sum()) != self._count:
            raise CorruptFileError(
                f"{self.path} has pixels of {int(counted.sum())} rows, but {self._count} were exported; {_REMEDY}"
            )
        self._starts = np.concatenate([[0], np.cumsum(counted)])

    def descriptor(self) -> OpenedFile:
        """Return the open file; it is opened again if it was closed.

        Raises
        ------
        CorruptFileError
            If it has been replaced meanwhile.
        """
        found = self._descriptor
        if found is None:
            with self._lock, translate_errors(self.path):
                found = self._descriptor = self._descriptor or OpenedFile(self.path)
            if found.state != self._state:
                self._descriptor = None
                raise CorruptFileError(f"{self.path} has been replaced while it was read; start again")
        return found

    def close(self) -> None:
        """Close the file, once no thread reads it."""
        self._descriptor = self._parquet = None

    def read_ahead(self) -> None:
        """Ask the kernel for the whole file."""
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            descriptor = self.descriptor()
            for at in range(0, descriptor.size, _AHEAD):
                advise(descriptor.number, at, _AHEAD, os.POSIX_FADV_WILLNEED)

    def is_located(self, plane: str) -> bool:
        """Return whether the rows of a plane can be read at their places."""
        return plane in self._offsets

    def offsets(self, plane: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first bit ``(n,)`` of rows of a plane in the file."""
        column = self._columns[plane]
        group = np.searchsorted(self._starts, numbers, side="right") - 1
        bits: NDArray[np.int64] = 8 * self._offsets[plane][group] + (numbers - self._starts[group]) * (
            column.values * column.bits
        )
        return bits

    def fill(
        self, to: NDArray[Any], begins: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> None:
        """Read parts of the file into an array.

        Parameters
        ----------
        to
            Any contiguous array.
        begins, offsets, lengths
            ``(n,)`` first byte of each part in the array and in the file, and number of its bytes.

        Raises
        ------
        CorruptFileError
            If the file ends before.
        """
        descriptor = self.descriptor()
        if read_runs is not None:  # all of them in one call, without the interpreter lock
            files, addresses = (
                np.full(len(begins), descriptor.number),
                np.uint64(address_of(to)) + begins.astype(np.uint64),
            )
            counts = read_runs(files, offsets, lengths, addresses, np.zeros(len(begins), np.int64), _NO_PADDING)
            left = np.flatnonzero(counts != lengths)
        else:
            left = np.arange(len(begins))
        memory = memoryview(to.reshape(-1).view(np.uint8))
        for at in left.tolist():
            begin, offset, length = int(begins[at]), int(offsets[at]), int(lengths[at])
            with translate_errors(self.path):
                count = os.preadv(descriptor.number, [memory[begin : begin + length]], offset)
            if count != length:
                end = f"{self.path} ends at byte {offset + count}, but should contain bytes up to {offset + length}"
                raise CorruptFileError(f"{end}; {_REMEDY}")

    def decoded(self, plane: str, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows ``(n, ...)`` of a plane from whole row groups, which pyarrow reads."""
        column = self._columns[plane]
        groups = np.searchsorted(self._starts, numbers, side="right") - 1
        out = np.empty((len(numbers), *column.shape), column.dtype)
        for group in np.unique(groups).tolist():
            mine = groups == group
            out[mine] = self._group(plane, group)[numbers[mine] - self._starts[group]]
        return out

    def _group(self, plane: str, group: int) -> NDArray[Any]:
        column, key = self._columns[plane], (self.path, group, plane)
        rows = self._groups.get(key)
        if rows is None:
            with self._lock:  # a ParquetFile is for one thread
                try:
                    if self._parquet is None:
                        self._parquet = pq.ParquetFile(self.path)
                    table = self._parquet.read_row_group(group, columns=[column.name], use_threads=False)
                except (OSError, pyarrow.ArrowException) as error:
                    raise CorruptFileError(f"{self.path} cannot be read: {error}; {_REMEDY}") from error
            rows = column.rows(table[column.name], self.path)
            if len(rows) != self._starts[group + 1] - self._starts[group]:
                raise CorruptFileError(f"{self.path}: column {column.name!r} has other rows than the others; {_REMEDY}")
            self._groups.put(key, rows)
        return rows
