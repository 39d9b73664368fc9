"""Writes, checks and measures each layout."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from lsstcutouts.errors import PixelMismatchError

from .formats import ArrowLayout, Layout, OffsetLayout, ParquetLayout, Pixels, RawLayout, Rows, ZarrLayout
from .page_cache import drop

__all__ = ["CASES", "LayoutSettings", "layouts_of", "measure_layouts"]

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
