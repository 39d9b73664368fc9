"""Ways to write partitions of cutouts and to read them."""

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = ["ArrowLayout", "Layout", "OffsetLayout", "ParquetLayout", "Pixels", "RawLayout", "Rows", "ZarrLayout"]

type Pixels = NDArray[np.float32]
type Rows = NDArray[np.int64]

_ROWS_AT_ONCE = 256
"""Rows that a pass over whole partitions holds at a time: 6 MB of six bands and 32 px."""

_SHARD = 1024
"""Rows of a zarr shard. Its index, 16 bytes a chunk, is read with every selection: 16 kB for chunks of one row."""

_AHEAD = 2**19
"""Bytes that the kernel is asked for at once: it reads no more than a few MB of what one call asks for, and forgets the rest."""


class Layout(ABC):
    """One way to write partitions of cutouts and to read them.

    Parameters
    ----------
    shape
        ``(B, Y, X)`` of a row.
    """

    name = ""
    files = ""
    """Name of what is written; layouts of one name read the same files."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.row_bytes = 4 * int(np.prod(shape))

    @abstractmethod
    def write(self, path: Path, pixels: Pixels) -> None:
        """Write a partition ``(n, B, Y, X)`` into a new folder."""

    @abstractmethod
    def open(self, paths: Sequence[Path]) -> None:
        """Open all partitions."""

    @abstractmethod
    def in_order(self, part: int) -> Iterator[Pixels]:
        """Yield the rows of a partition, in order."""

    @abstractmethod
    def rows(self, part: int, rows: Rows, out: Pixels) -> None:
        """Read some rows of a partition, in the order given."""

    def begin(self, part: int) -> None:  # noqa: B027 - most layouts do nothing
        """Prepare for many rows of a partition."""

    @abstractmethod
    def close(self) -> None:
        """Close all files, and unmap them: mapped pages can't be dropped from the page cache."""


def _catalog(count: int) -> dict[str, pa.Array]:
    """Return the columns of a partition beside the image."""
    number = np.arange(count)
    return {"object_id": pa.array(number), "ra": pa.array(number / count), "dec": pa.array(-number / count)}


def _table(pixels: Pixels, *, fixed: bool = True) -> pa.Table:
    """Return catalog columns and the image, one list of ``B * Y * X`` values a row."""
    count, values = len(pixels), int(np.prod(pixels.shape[1:]))
    element = pa.field("element", pa.float32(), nullable=False)
    flat = pa.array(pixels.reshape(-1))
    if fixed:
        image: pa.Array = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(element, values))
    else:
        starts = pa.array(np.arange(count + 1, dtype=np.int32) * values)
        image = pa.ListArray.from_arrays(starts, flat, type=pa.list_(element))
    columns = _catalog(count) | {"image": image}
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


class ParquetLayout(Layout):
    """Uncompressed Parquet, read by pyarrow in whole row groups, the least that it can read.

    Parameters
    ----------
    group_rows
        Rows of a row group.
    kind
        ``"fixed"``: the image is a fixed-size list, without dictionary, statistics or a second page; ``"list"``: the same as a
        list; ``"defaults"``: fixed, with the defaults of pyarrow but the compression; ``"pages"``: fixed, with a page for each
        row and a page index.
    """

    def __init__(self, shape: tuple[int, int, int], group_rows: int, kind: str = "fixed") -> None:
        super().__init__(shape)
        self.group_rows, self.kind = group_rows, kind
        told = {"fixed": "", "list": ", list", "defaults": ", pyarrow's defaults", "pages": ", a page for each row"}[
            kind
        ]
        self.files = self.name = f"Parquet, groups of {group_rows}{told}"
        self._open: list[pq.ParquetFile] = []

    def write(self, path: Path, pixels: Pixels) -> None:
        """Write ``part.parquet``."""
        table = _table(pixels, fixed=self.kind != "list")
        options: dict[str, Any] = {"compression": "none", "row_group_size": self.group_rows}
        if self.kind != "defaults":
            names = [name for name in table.column_names if name != "image"]
            options |= {"use_dictionary": False, "write_statistics": names, "data_page_size": 2**30}
        if self.kind == "pages":
            # pyarrow begins a page after the batch, in values, that makes it as large as this.
            options |= {
                "data_page_size": self.row_bytes,
                "write_batch_size": self.row_bytes // 4,
                "write_page_index": True,
            }
        pq.write_table(table, path / "part.parquet", **options)

    def open(self, paths: Sequence[Path]) -> None:
        """Map the files and read their footers."""
        self._open = [pq.ParquetFile(path / "part.parquet", memory_map=True) for path in paths]

    def in_order(self, part: int) -> Iterator[Pixels]:
        """Yield one row group, or some small ones, at a time."""
        yield from self._groups(part, range(self._open[part].num_row_groups))

    def rows(self, part: int, rows: Rows, out: Pixels) -> None:
        """Read the row groups of the rows."""
        group, place = np.divmod(rows, self.group_rows)
        used, index = np.unique(group, return_inverse=True)
        index = index * self.group_rows + place  # only the last group of a file can be shorter than the others
        start = 0
        for found in self._groups(part, used.tolist()):
            mine = np.flatnonzero((index >= start) & (index < start + len(found)))
            out[mine] = found[index[mine] - start]
            start += len(found)

    def close(self) -> None:
        """Close the files."""
        for file in self._open:
            file.close()
        self._open = []

    def _groups(self, part: int, groups: Sequence[int]) -> Iterator[Pixels]:
        """Yield the rows of row groups: 100 MB at once would be new memory for each batch, which takes longer than to read."""
        step = max(1, _ROWS_AT_ONCE // self.group_rows)
        for at in range(0, len(groups), step):
            some = list(groups[at : at + step])
            read = self._open[part].read_row_groups(some, columns=["image"], use_threads=False)["image"]
            chunks = [chunk.flatten().to_numpy() for chunk in read.chunks]
            yield (chunks[0] if len(chunks) == 1 else np.concatenate(chunks)).reshape(-1, *self.shape)


class OffsetLayout(ParquetLayout):
    """The same Parquet files, but each row is read at its place in the file.

    Values of a column chunk that is not compressed, in plain encoding, without nulls and in one data page are the last bytes of the
    chunk (github.com/apache/parquet-format, data pages).

    Parameters
    ----------
    mapped
        Whether rows are copied out of the file in memory, instead of being read.
    ahead
        Whether the kernel is asked for the whole partition before its rows are read.
    """

    def __init__(
        self, shape: tuple[int, int, int], group_rows: int, *, mapped: bool = False, ahead: bool = False
    ) -> None:
        super().__init__(shape, group_rows)
        self.name = f"{self.files}, rows {'mapped' if mapped else 'read'}{', read ahead' * ahead}"
        self._mapped, self._ahead = mapped, ahead
        self._places: list[_Places] = []

    def open(self, paths: Sequence[Path]) -> None:
        """Open the files and compute the offset of each row."""
        for path in (path / "part.parquet" for path in paths):
            offsets, descriptor = self._of_rows(pq.read_metadata(path)), os.open(path, os.O_RDONLY)
            whole = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if self._mapped else None
            self._places.append(_Places(offsets, descriptor, whole))

    def in_order(self, part: int) -> Iterator[Pixels]:
        """Yield one row group at a time."""
        self.begin(part)
        count = len(self._places[part].offsets)
        for at in range(0, count, self.group_rows):
            out = np.empty((min(self.group_rows, count - at), *self.shape), np.float32)
            self._places[part].read(at, memoryview(out).cast("B"))
            yield out

    def rows(self, part: int, rows: Rows, out: Pixels) -> None:
        """Read each row by itself."""
        places, memory = self._places[part], memoryview(out).cast("B")
        for at, row in enumerate(rows.tolist()):
            places.read(row, memory[at * self.row_bytes : (at + 1) * self.row_bytes])

    def begin(self, part: int) -> None:
        """Ask for the whole file."""
        if self._ahead:
            descriptor = self._places[part].descriptor
            for at in range(0, os.fstat(descriptor).st_size, _AHEAD):
                os.posix_fadvise(descriptor, at, _AHEAD, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the files."""
        for places in self._places:
            places.close()
        self._places = []

    def _of_rows(self, metadata: pq.FileMetaData) -> list[int]:
        found = list[int]()
        for group in (metadata.row_group(at) for at in range(metadata.num_row_groups)):
            columns = [group.column(at) for at in range(group.num_columns)]
            chunk = next(column for column in columns if column.path_in_schema.startswith("image."))
            values = chunk.data_page_offset + chunk.total_compressed_size - group.num_rows * self.row_bytes
            found += [values + row * self.row_bytes for row in range(group.num_rows)]
        return found


@dataclass(frozen=True)
class _Places:
    """An open file and the offset of each row in it."""

    offsets: list[int]
    descriptor: int
    whole: mmap.mmap | None

    def read(self, row: int, memory: memoryview) -> None:
        """Fill memory with the bytes from a row on."""
        offset = self.offsets[row]
        if self.whole is not None:
            memory[:] = memoryview(self.whole)[offset : offset + len(memory)]
        elif os.preadv(self.descriptor, [memory], offset) != len(memory):
            raise OSError(f"the file ends before byte {offset + len(memory)}")

    def close(self) -> None:
        """Close the file."""
        if self.whole is not None:
            self.whole.close()
        os.close(self.descriptor)


class MappedLayout(Layout):
    """Files mapped into memory."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self._mapped: list[Pixels] = []

    @abstractmethod
    def mapped(self, path: Path) -> Pixels:
        """Return a partition ``(n, B, Y, X)`` without reading it."""

    def open(self, paths: Sequence[Path]) -> None:
        """Map the files."""
        self._mapped = [self.mapped(path) for path in paths]

    def in_order(self, part: int) -> Iterator[Pixels]:
        """Yield copies."""
        for at in range(0, len(self._mapped[part]), _ROWS_AT_ONCE):
            yield np.array(self._mapped[part][at : at + _ROWS_AT_ONCE])

    def rows(self, part: int, rows: Rows, out: Pixels) -> None:
        """Copy rows."""
        np.take(self._mapped[part], rows, axis=0, out=out, mode="clip")

    def close(self) -> None:
        """Unmap the files: nothing else refers to them."""
        self._mapped = []


class ArrowLayout(MappedLayout):
    """Arrow IPC with one record batch for each partition, which the writer has to hold in memory."""

    files = name = "Arrow IPC, mapped"

    def write(self, path: Path, pixels: Pixels) -> None:
        """Write ``part.arrow``."""
        table = _table(pixels)
        with pa.ipc.new_file(path / "part.arrow", table.schema) as writer:
            writer.write_table(table)

    def mapped(self, path: Path) -> Pixels:
        """Return the values of the only batch."""
        batch = pa.ipc.open_file(pa.memory_map(str(path / "part.arrow"))).get_batch(0)
        return np.asarray(batch["image"].flatten().to_numpy()).reshape(-1, *self.shape)


class RawLayout(MappedLayout):
    """One array in NumPy's format for each plane and partition, beside a Parquet table of the other columns."""

    files = name = "one .npy for each plane, mapped"

    def write(self, path: Path, pixels: Pixels) -> None:
        """Write ``image.npy`` and ``part.parquet``."""
        np.save(path / "image.npy", pixels)
        pq.write_table(pa.table(_catalog(len(pixels))), path / "part.parquet")

    def mapped(self, path: Path) -> Pixels:
        """Return the array."""
        return np.asarray(np.load(path / "image.npy", mmap_mode="r"))


class ZarrLayout(Layout):
    """zarr version 3 without compression, in shards."""

    def __init__(self, shape: tuple[int, int, int], chunk_rows: int) -> None:
        super().__init__(shape)
        self.files = self.name = f"zarr shards of {_SHARD}, chunks of {chunk_rows}"
        self._chunk_rows = chunk_rows
        self._open: list[Any] = []

    def write(self, path: Path, pixels: Pixels) -> None:
        """Write the array ``image`` and ``part.parquet``."""
        array = import_module("zarr").create_array(
            store=str(path / "image"),
            shape=pixels.shape,
            dtype=pixels.dtype,
            chunks=(self._chunk_rows, *self.shape),
            shards=(_SHARD, *self.shape),
            compressors=None,
        )
        array[:] = pixels
        pq.write_table(pa.table(_catalog(len(pixels))), path / "part.parquet")

    def open(self, paths: Sequence[Path]) -> None:
        """Open the arrays."""
        self._open = [import_module("zarr").open_array(store=str(path / "image"), mode="r") for path in paths]

    def in_order(self, part: int) -> Iterator[Pixels]:
        """Yield one shard at a time."""
        for at in range(0, self._open[part].shape[0], _SHARD):
            yield self._open[part][at : at + _SHARD]

    def rows(self, part: int, rows: Rows, out: Pixels) -> None:
        """Select rows."""
        out[...] = self._open[part].oindex[rows]

    def close(self) -> None:
        """Forget the arrays, which hold no file open."""
        self._open = []
