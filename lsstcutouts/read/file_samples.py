"""Where the bytes are in a few remote files of a plan, which stand for the others when a download is estimated."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..fits.index import FileIndex
from ..fits.layout import PlaneLayout
from ..fits.psf import CellKernels
from ..plan.cutout_plan import CutoutPlan
from ..sky.geometry import YX
from ..source.web.byte_parts import NotHereError, Part
from ..source.web.process import web_of_process
from .cache.tile_cache import TileCache
from .masks import mask_hdus
from .open_files import OpenFiles
from .options import ReaderOptions

__all__ = ["ByteGrid", "FileSample", "open_samples"]

type Integers = NDArray[np.int64]

_POLL_SECONDS = 0.05

_USUAL_HEADERS = np.array([[0, 64 << 10]])
"""Bytes ``(1, 2)`` that are read of a file before its tiles, where this cannot be observed."""


@dataclass(frozen=True, slots=True, eq=False)
class ByteGrid:
    """Bytes of the cache units of one HDU in a file: neighbouring tiles that are read together, or kernels of cells.

    Attributes
    ----------
    shape
        Pixels of a unit.
    grid
        Rows and columns of units.
    first
        ``(U + 1,)`` first row of ``extents`` of each unit, units row by row, and the number of rows.
    extents
        ``(T, 2)`` first byte of each tile, and the byte after its last.
    middle
        Whether only the unit under the middle of a box is read, as for the PSF.
    """

    shape: YX[int]
    grid: YX[int]
    first: Integers
    extents: Integers
    middle: bool = False

    @classmethod
    def of_layout(cls, layout: PlaneLayout) -> Self:
        """Return the bytes of a plane."""
        tiles = [layout.tiles_of(np.array([unit])) for unit in range(layout.units)]
        extents = [np.column_stack([layout.offsets[one], layout.offsets[one] + layout.sizes[one]]) for one in tiles]
        return cls(layout.unit_shape, layout.unit_grid, _starts(extents), np.concatenate(extents))

    @classmethod
    def of_kernels(cls, kernels: CellKernels) -> Self:
        """Return the bytes of PSF kernels."""
        cells = kernels.cells
        found = [kernels.extents([cell]) for cell in range(cells.grid.y * cells.grid.x)]
        extents = [np.column_stack([offsets, offsets + sizes]) for offsets, sizes in found]
        return cls(cells.cell_shape, cells.grid, _starts(extents), np.concatenate(extents), middle=True)

    def under(self, plan: CutoutPlan, targets: Integers) -> tuple[Integers, Integers]:
        """Return patches ``(k,)`` and extents ``(k, 2)`` of what is read in such files for targets ``(n,)`` of a plan."""
        keys = np.unique(plan.tiles_under(targets, self.shape, middle=self.middle)[0])
        patch, row, column = keys >> 40, keys >> 20 & 0xFFFFF, keys & 0xFFFFF
        inside = (row < self.grid.y) & (column < self.grid.x)
        unit = (row * self.grid.x + column)[inside]
        low, count = self.first[unit], self.first[unit + 1] - self.first[unit]
        rows = np.repeat(low - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        return np.repeat(patch[inside], count), self.extents[rows]


def _starts(extents: Sequence[Integers]) -> Integers:
    return np.cumsum([0, *map(len, extents)])


@dataclass(frozen=True, slots=True, eq=False)
class FileSample:
    """Where the bytes of one file are.

    Attributes
    ----------
    headers
        ``(H, 2)`` ranges of bytes ``(start, stop)`` that are read before the tiles.
    grids
        Bytes of all that is read of it.
    whole
        Whether the whole file is read, since it is gzipped; ``grids`` are of its content then.
    """

    headers: Integers
    grids: tuple[ByteGrid, ...]
    whole: bool

    @classmethod
    def of(cls, index: FileIndex, options: ReaderOptions, headers: Sequence[Part]) -> Self:
        """Return the sample of a file from its index, and from what was asked for to read its headers."""
        ranges = sorted({(part.start, part.stop) for part in headers})
        known = np.array(ranges, np.int64) if ranges else _USUAL_HEADERS
        return cls(known, tuple(_grids(index, options)), index.gzipped)


def _grids(index: FileIndex, options: ReaderOptions) -> Iterator[ByteGrid]:
    for plane in options.sources.keys() - index.errors.keys():
        for name in mask_hdus(index.mask_bits) if plane == "mask" else [plane]:
            yield ByteGrid.of_layout(index.layouts[name])
    if index.kernels is not None:
        yield ByteGrid.of_kernels(index.kernels)


def open_samples(
    plan: CutoutPlan, options: ReaderOptions, held: NDArray[np.int64], seconds: float
) -> Mapping[int, FileSample]:
    """Open one file of each band side by side, and return those that are open after some seconds, at least one.

    Parameters
    ----------
    plan, options
        What is read.
    held
        ``(F,)`` bytes of each file in the disk cache. Files of which it holds nothing show best what reading takes.
    seconds
        After this time nothing more is waited for.

    Returns
    -------
    Mapping
        By number of the file in the plan.

    Raises
    ------
    ReadError
        If no file can be opened.
    AuthenticationError, RepositoryUnavailableError
        If a server refuses access, or does not answer.
    """
    opened, web = OpenFiles(TileCache()), web_of_process()
    rank, end = web.next_rank(0), time.monotonic() + seconds
    waiting: dict[int, list[Part]] = {file: [] for file in _typical_files(plan, held)}
    found: dict[int, FileSample] = {}
    failure: ReadError | None = None
    while waiting and (time.monotonic() < end or not found):
        for file, parts in list(waiting.items()):
            if not all(part.future.done() for part in parts):
                continue
            tract = int(plan.patches.tract[plan.patches.row_and_band[file, 0]])
            try:
                index = opened.index(plan, file, tract, options, rank)
            except NotHereError as error:
                waiting[file] = [*parts, *error.parts]  # what has arrived must stay until the file is open
            except ReadError as error:
                failure = error
                del waiting[file]
            else:
                found[file] = FileSample.of(index, options, parts)
                del waiting[file]
        coming = [part.future for parts in waiting.values() for part in parts if not part.future.done()]
        wait(coming, _POLL_SECONDS, FIRST_COMPLETED)
    if not found and failure is not None:
        raise failure
    return found


def _typical_files(plan: CutoutPlan, held: NDArray[np.int64]) -> list[int]:
    """Return one file of each band: of the patch with most targets, if the disk cache has nothing of it."""
    patches, counts = np.unique(plan.primary, return_counts=True)
    chosen: list[int] = []
    for band in range(len(plan.bands)):
        files = plan.patches.files[patches, band]
        there = files >= 0
        if there.any():
            order = np.lexsort((-counts[there], held[files[there]] > 0))
            chosen.append(int(files[there][order[0]]))
    return chosen or [0]  # all pixels come from neighbouring patches
