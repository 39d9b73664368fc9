"""Rates of random rows and of whole partitions of exported cutouts, for the layouts that an export could have.

Run: python -m benchmarks.layouts folder=bench/layouts [rows=100000] [size=32] [bands=ugrizy] [only=parquet] > layouts.json

The same random cutouts are written in each layout into the folder, which needs room for one of them (2.5 GB) and must be on
a disk: tmpfs can't be dropped from memory. Each layout is read back bit for bit before it is measured, and removed
afterwards; the cutouts are also held in memory. `zarr` is skipped where it is not installed.

Rates are rows/s, a row being the image plane of one object in all bands, as a copy in memory. In each of repeats= rounds all
ways to read the same files take turns:

- partitions: whole partitions in order;
- rows of one partition: batches of batch_size= rows of one partition at a time, as in an epoch that is shuffled block by block;
- rows of all partitions: batches out of all partitions, as in a full permutation.

Warm: the page cache holds the files. Cold: the files are dropped from it before the pass, which ends with the partition or after
cold_seconds=. The disk of a virtual machine may still be in the memory of its host: compare cold rates with that of `read()`, which
reads the bytes of the same partition from start to end just before.
"""

import ctypes
import mmap
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from lsstcutouts.errors import PixelMismatchError

from .common import report, settings_of

__all__ = ["CASES", "Layout", "LayoutSettings", "cached", "drop", "layouts_of", "main", "measure_layouts"]

type Pixels = NDArray[np.float32]
type Rows = NDArray[np.int64]

_ROWS_AT_ONCE = 256
"""Rows that a pass over whole partitions holds at a time: 6 MB of six bands and 32 px."""

_SHARD = 1024
"""Rows of a zarr shard. Its index, 16 bytes a chunk, is read with every selection: 16 kB for chunks of one row."""

_AHEAD = 2**19
"""Bytes that the kernel is asked for at once: it reads no more than a few MB of what one call asks for, and forgets the rest."""

CASES = ("partitions", "rows of one partition", "rows of all partitions")
"""What is read; each warm and cold."""


@dataclass(frozen=True)
class LayoutSettings:
    """What is written and how long it is read; ``only`` chooses layouts by a part of their names."""

    folder: str = "bench/layouts"
    rows: int = 100_000
    size: int = 32
    bands: str = "ugrizy"
    batch_size: int = 64
    partition_bytes: int = 400_000_000
    repeats: int = 3
    seconds: float = 0.3
    cold_seconds: float = 1.2
    seed: int = 0
    only: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, Y, X)`` of a row."""
        return len(self.bands), self.size, self.size

    @property
    def partition_rows(self) -> int:
        """Rows of a partition, of which the last may have fewer."""
        return max(1, self.partition_bytes // (4 * int(np.prod(self.shape))))


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


def layouts_of(settings: LayoutSettings) -> list[Layout]:
    """Return the layouts to measure, those with the same files beside each other."""
    shape = settings.shape
    found: list[Layout] = [ParquetLayout(shape, 1), ParquetLayout(shape, 16), ParquetLayout(shape, 64)]
    found += [OffsetLayout(shape, 64), OffsetLayout(shape, 64, ahead=True), OffsetLayout(shape, 64, mapped=True)]
    found += [OffsetLayout(shape, 64, mapped=True, ahead=True)]
    found += [ParquetLayout(shape, 256), OffsetLayout(shape, 256)]
    found += [ParquetLayout(shape, 64, kind) for kind in ("list", "defaults", "pages")]
    found += [ArrowLayout(shape), RawLayout(shape)]
    if find_spec("zarr"):
        found += [ZarrLayout(shape, 1), ZarrLayout(shape, 64)]
    else:
        sys.stderr.write("zarr is not installed: its layouts are skipped\n")
    return [layout for layout in found if settings.only.lower() in layout.name.lower()]


def measure_layouts(settings: LayoutSettings) -> list[dict[str, Any]]:
    """Write, check, measure and remove every layout; return a row for each, and one each for memory and `read()`."""
    rng, shape = np.random.default_rng(settings.seed), (settings.rows, *settings.shape)
    bits = rng.integers(0, 2**32, shape, np.uint32)  # any float32, NaN included
    scene = _Scene(settings, bits.view(np.float32))
    groups: dict[str, list[Layout]] = {}
    for layout in layouts_of(settings):
        groups.setdefault(layout.files, []).append(layout)
    figures = [row for layouts in groups.values() for row in scene.measure(layouts)]
    return [*figures, *scene.references()]


class _Scene:
    """The cutouts, and what is measured with them."""

    def __init__(self, settings: LayoutSettings, pixels: Pixels) -> None:
        self.settings, self.pixels = settings, pixels
        self.starts = list(range(0, len(pixels), settings.partition_rows))
        self.folder = Path(settings.folder)
        tensors = TensorDataset(torch.from_numpy(pixels))
        self._tensors = DataLoader(tensors, batch_size=settings.batch_size, shuffle=True)
        self._memory, self._read = list[float](), list[float]()

    def measure(self, layouts: Sequence[Layout]) -> list[dict[str, Any]]:
        """Return a row for each layout; all have the same files."""
        paths = [self.folder / f"partition-{part}" for part in range(len(self.starts))]
        _remove(paths)
        try:
            seconds = self._write(layouts[0], paths)
            size = sum(file.stat().st_size for file in _files(paths))
            opened, rates = self._rounds(layouts, paths)
        finally:
            _remove(paths)
        rows = []
        for layout in layouts:
            row: dict[str, Any] = {
                "layout": layout.name,
                "bytes/pixels": size / self.pixels.nbytes,
                "write, s": seconds,
            }
            row["open, ms"] = 1e3 * median(opened[layout.name])
            row |= {name: median(of) for name, of in rates[layout.name].items()}
            row |= {f"cold {name} over read()": row[f"cold {name}"] / row["read()"] for name in CASES[:2]}
            self._read += rates[layout.name]["read()"]
            rows.append(row)
            sys.stderr.write(f"{layout.name}: {' '.join(f'{row[f"warm {name}"]:,.0f}' for name in CASES)} rows/s\n")
        return rows

    def references(self) -> list[dict[str, Any]]:
        """Return a row each of a `TensorDataset` in memory and of reading the bytes of a partition."""
        if not self._memory:
            return []
        memory = {"layout": "TensorDataset in memory", f"warm {CASES[2]}": median(self._memory)}
        return [memory, {"layout": "read() of the bytes", f"cold {CASES[0]}": median(self._read)}]

    def _write(self, layout: Layout, paths: Sequence[Path]) -> float:
        """Return seconds until all partitions are on the disk."""
        start = perf_counter()
        for part, path in enumerate(paths):
            path.mkdir(parents=True)
            layout.write(path, self._of(part))
            for file in _files([path]):
                with file.open("rb") as open_file:
                    os.fsync(open_file.fileno())
        return perf_counter() - start

    def _rounds(
        self, layouts: Sequence[Layout], paths: Sequence[Path]
    ) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
        """Return seconds to open, and rates by layout and case."""
        opened: dict[str, list[float]] = {layout.name: [] for layout in layouts}
        rates: dict[str, dict[str, list[float]]] = {layout.name: {} for layout in layouts}
        self._check(layouts, paths)
        for turn in range(self.settings.repeats):
            cases = self._cases(turn)
            _consume(_blocks(_files(paths)), 1e9)
            memory = _consume((batch[0] for batch in self._tensors), self.settings.seconds)
            self._memory.append(memory)
            for layout in layouts:
                start = perf_counter()
                layout.open(paths)
                opened[layout.name].append(perf_counter() - start)
                of = rates[layout.name]
                for name, case in cases.items():
                    of.setdefault(f"warm {name}", []).append(_consume(case(layout), self.settings.seconds))
                of.setdefault("over TensorDataset", []).append(of[f"warm {CASES[1]}"][-1] / memory)
                layout.close()
            for layout in layouts:
                self._cold(layout, paths, turn, rates[layout.name])
        return opened, rates

    def _cold(self, layout: Layout, paths: Sequence[Path], turn: int, rates: dict[str, list[float]]) -> None:
        """Add rates with no file in the page cache, of another partition in each turn."""
        files, part, row_bytes = _files(paths), turn % len(paths), 4 * int(np.prod(self.settings.shape))
        for name, case in self._cases(turn).items():
            if name != CASES[2]:
                drop(files)
                rates.setdefault("read()", []).append(_consume(_blocks(_files([paths[part]])), 1e9) / row_bytes)
            rates.setdefault("left in the page cache", []).append(drop(files))
            layout.open(paths)
            rates.setdefault(f"cold {name}", []).append(_consume(case(layout, part), self.settings.cold_seconds))
            layout.close()

    def _cases(self, turn: int) -> dict[str, Callable[..., Iterator[Pixels]]]:
        """Return the passes by name: of all partitions, or for those that can, of one."""
        size, parts = self.settings.batch_size, range(len(self.starts))

        def in_order(layout: Layout, part: int | None = None) -> Iterator[Pixels]:
            for one in parts if part is None else [part]:
                yield from layout.in_order(one)

        def of_one(layout: Layout, part: int | None = None) -> Iterator[Pixels]:
            rng = np.random.default_rng([self.settings.seed, turn])
            for one in rng.permutation(len(parts)).tolist() if part is None else [part]:
                layout.begin(one)
                order = self.starts[one] + rng.permutation(len(self._of(one)))
                yield from (self.batch(layout, order[at : at + size]) for at in range(0, len(order), size))

        def of_all(layout: Layout, _: int | None = None) -> Iterator[Pixels]:
            order = np.random.default_rng([self.settings.seed, turn]).permutation(len(self.pixels))
            yield from (self.batch(layout, order[at : at + size]) for at in range(0, len(order), size))

        return dict(zip(CASES, (in_order, of_one, of_all), strict=True))

    def batch(self, layout: Layout, rows: Rows) -> Pixels:
        """Return the rows in ascending order: the order in a batch does not matter to a training, but to the disk."""
        rows = np.sort(rows)
        out = np.empty((len(rows), *self.settings.shape), np.float32)
        edges = np.searchsorted(rows, [*self.starts, len(self.pixels)]).tolist()
        for part, (low, high) in enumerate(pairwise(edges)):
            if low < high:
                layout.rows(part, rows[low:high] - self.starts[part], out[low:high])
        return out

    def _check(self, layouts: Sequence[Layout], paths: Sequence[Path]) -> None:
        """Raise `PixelMismatchError` if a layout gives other bits than were written."""
        rng = np.random.default_rng(self.settings.seed)
        some = [rng.permutation(len(self.pixels))[: self.settings.batch_size] for _ in range(3)]
        for layout in layouts:
            layout.open(paths)
            at = 0
            for part in range(len(paths)):
                for found in layout.in_order(part):
                    _same(layout, found, self.pixels[at : at + len(found)])
                    at += len(found)
            if at != len(self.pixels):
                raise PixelMismatchError(f"{layout.name}: {at} rows were read, {len(self.pixels)} were written")
            for rows in some:
                _same(layout, self.batch(layout, rows), self.pixels[np.sort(rows)])
            layout.close()

    def _of(self, part: int) -> Pixels:
        start = self.starts[part]
        return self.pixels[start : start + self.settings.partition_rows]


def _same(layout: Layout, found: Pixels, written: Pixels) -> None:
    if not np.array_equal(found.view(np.uint32), written.view(np.uint32)):
        raise PixelMismatchError(f"{layout.name}: pixels that were read differ from those that were written")


def _consume(batches: Iterable[Any], most_seconds: float) -> float:
    """Return items a second until the batches end, or the time."""
    count, start = 0, perf_counter()
    for batch in batches:
        count += len(batch)
        if perf_counter() - start > most_seconds:
            break
    return count / (perf_counter() - start)


def _blocks(files: Sequence[Path]) -> Iterator[memoryview]:
    """Yield the bytes of files, read into the same memory."""
    memory = memoryview(bytearray(2**22))
    for file in files:
        with file.open("rb", buffering=0) as open_file:
            while count := open_file.readinto(memory):
                yield memory[:count]


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in sorted(path.rglob("*")) if file.is_file()]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    names = LayoutSettings.__dataclass_fields__
    _, own = settings_of(__doc__, {name: field.default for name, field in names.items()}, arguments)
    load = own.pop("load")
    settings = LayoutSettings(**own)
    report(measure_layouts(settings), load=load, packages=("pyarrow", "zarr"))


if __name__ == "__main__":
    main()
