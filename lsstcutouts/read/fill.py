"""Crop and stitch: pixels of each target from its primary patch, the rest of the box from the neighbours."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryMismatchError
from ..fits.index import FileIndex
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from ..sky.geometry import YX, Box, TanProjection
from .batch_report import Failure
from .options import ReaderOptions
from .recipe import Recipe, inside_and_torn, recipe_of
from .tiles import TileReader
from .work import Work

__all__ = ["Filler"]

type Boxes = NDArray[np.int64]  # (n, 3): place in the batch, first pixel (y, x) in the tract
type Recipes = dict[tuple[Box, Box | bytes, YX[int]], Recipe]
"""By the pixels of the file, the box or the numbers of the boxes, and the shape of the units: bands share them."""


class Filler:
    """Fills the arrays of a `Work` from the files of its plan; any number of threads, each with its own targets."""

    def __init__(self, plan: CutoutPlan, options: ReaderOptions, tiles: TileReader) -> None:
        self._plan, self._tiles = plan, tiles
        self._sources = tuple(options.sources)
        self._psf, self._normalise = "psf" in options.planes, options.normalise_psf

    def fill(self, work: Work, part: Iterable[int]) -> None:
        """Read the targets at the places ``part`` of a batch."""
        by_patch: dict[int, list[int]] = {}
        for n in part:
            by_patch.setdefault(int(self._plan.primary[work.targets[n]]), []).append(n)
        for patch, places in by_patch.items():
            self._fill_patch(work, patch, places)

    def _fill_patch(self, work: Work, patch: int, places: list[int]) -> None:
        """Read targets of one primary patch: whole boxes straight from its files, the others stitched."""
        boxes = np.empty((len(places), 3), np.int64)
        boxes[:, 0], boxes[:, 1:] = places, self._plan.yx0[work.targets[places]]
        recipes: Recipes = {}
        projection: TanProjection | None = None
        own: dict[int, TanProjection] = {}
        for band in range(len(self._plan.bands)):
            torn: list[int] = []
            for home, group in self._homes(work, patch, band, boxes):
                index = self._open(work, home, band)
                if not isinstance(index, FileIndex):
                    torn += group[:, 0].tolist()
                    continue
                torn += self._fill_whole(work, band, index, self._file(home, band), group, recipes)
                if home == patch:
                    projection = projection or _own_projection(index)
                elif (other := _own_projection(index)) is not None:
                    own |= {n: other for n in group[:, 0].tolist() if n not in own}
            for n in torn:
                self._stitch(work, n, band, own, recipes)
            for n in places if self._psf else ():
                self._fill_psf(work, n, band)
        self._write_wcs(work, boxes, projection, own)

    def _homes(self, work: Work, patch: int, band: int, boxes: Boxes) -> list[tuple[int, Boxes]]:
        """Divide boxes by the patch whose file alone gives their pixels, if they lie on it: mostly the primary one."""
        if self._file(patch, band) >= 0:
            return [(patch, boxes)]
        groups: dict[int, list[int]] = {}
        for i, n in enumerate(boxes[:, 0].tolist()):
            files = [other for other in self._plan.others_of(int(work.targets[n])) if self._file(other, band) >= 0]
            groups.setdefault(files[0] if len(files) == 1 else patch, []).append(i)
        return [(home, boxes[group]) for home, group in groups.items()]

    def _write_wcs(
        self, work: Work, boxes: Boxes, projection: TanProjection | None, own: dict[int, TanProjection]
    ) -> None:
        """Note the WCS of boxes: that of their patch's files, else that of the file that each took pixels from."""
        if projection is None:
            patch = int(self._plan.primary[work.targets[boxes[0][0]]])
            tract = self._plan.projections[int(self._plan.patches.tract[patch])]
            for n, y0, x0 in boxes.tolist():
                work.wcs[n] = _wcs_numbers(own.get(n, tract)) - (0, 0, x0, y0, 0, 0, 0, 0)
            return
        numbers = np.tile(_wcs_numbers(projection), (len(boxes), 1))
        numbers[:, 2:4] -= boxes[:, :0:-1]
        work.wcs[boxes[:, 0]] = numbers

    def _file(self, patch: int, band: int) -> int:
        return int(self._plan.patches.files[patch, band])

    def _open(self, work: Work, patch: int, band: int) -> FileIndex | Failure | None:
        """Return the open file of a patch and band, why it cannot be read, or None where there is none."""
        file = self._file(patch, band)
        if file < 0:
            return None
        if file in work.broken:
            return work.broken[file]
        index = self._tiles.open(file, int(self._plan.patches.tract[patch]))
        if isinstance(index, Failure):
            work.broken[file] = index
        return index

    def _fill_whole(
        self, work: Work, band: int, index: FileIndex, file: int, boxes: Boxes, recipes: Recipes
    ) -> list[int]:
        """Paste the boxes that lie on a file; return those that do not."""
        inside, torn = inside_and_torn(boxes, self._plan.size, index.bbox)
        whole = inside[:, 0]
        for source in self._sources if len(inside) else ():
            unit = self._tiles.unit_shape(index, file, source)
            if isinstance(unit, Failure):
                work.clear(whole, band)
                everywhere = slice(0, self._plan.size.y), slice(0, self._plan.size.x)
                for n in whole.tolist():
                    work.lose(n, band, everywhere, np.ones(self._plan.size, bool), [unit])
                continue
            recipe = recipes.get((index.bbox, whole.tobytes(), unit))
            if recipe is None:
                recipe = recipes[index.bbox, whole.tobytes(), unit] = recipe_of(
                    inside, self._plan.size, index.bbox, unit
                )
            to = work.sources[source][:, band]
            doubtful, lost = self._tiles.paste(to, index, file, source, recipe)
            work.suspect[doubtful] = True
            for n, y, x, part, failures in lost:
                work.lose(n, band, (y, x), part, failures)
        work.present[whole, band] = True
        if work.covered is not None:
            work.covered[whole, band] = True
        return torn

    def _stitch(self, work: Work, n: int, band: int, own: dict[int, TanProjection], recipes: Recipes) -> None:
        """Read one box of one band from every patch under it, the first in the order of `_pieces` wins."""
        target = int(work.targets[n])
        box = Box.from_start(YX(*self._plan.yx0[target].tolist()), self._plan.size)
        taken = np.zeros(self._plan.size, bool)
        work.clear(n, band)
        work.suspect[n] = True
        for patch, region in self._pieces(target):
            index = self._open(work, patch, band)
            if index is None:
                continue
            piece = box.intersection(self._extent(index, patch))
            piece = piece if region is None else piece.intersection(region)
            if piece.is_empty or (filled := taken[piece.slices(box.start)]).all():
                continue
            piece = _without_edges(piece, filled) if filled.any() else piece
            at = piece.slices(box.start)
            if isinstance(index, Failure):
                work.lose(n, band, at, ~taken[at], [index])
            else:
                self._fill_piece(work, (n, band), index, self._file(patch, band), piece, at, ~taken[at], recipes)
                if n not in own and (projection := _own_projection(index)) is not None:
                    own[n] = projection
            taken[at] = True
            if taken.all():
                break
        work.present[n, band] = taken.any()
        if work.covered is not None:
            work.covered[n, band] = taken
        if not taken.all():
            work.quality[n, band] |= Quality.PARTLY_COVERED if taken.any() else Quality.BAND_ABSENT

    def _fill_piece(
        self,
        work: Work,
        place: tuple[int, int],
        index: FileIndex,
        file: int,
        piece: Box,
        at: tuple[slice, slice],
        free: NDArray[np.bool_],
        recipes: Recipes,
    ) -> None:
        """Paste the part of a box that lies on a file, where no other file has pasted."""
        for source in self._sources:
            unit = self._tiles.unit_shape(index, file, source)
            if isinstance(unit, Failure):
                work.lose(*place, at, free, [unit])
                continue
            to = work.sources[source][place]
            pixels = np.zeros((1, *piece.shape), to.dtype)
            recipe = recipes.get((index.bbox, piece, unit))
            if recipe is None:
                one = np.array([[0, piece.y0, piece.x0]])
                recipe = recipes[index.bbox, piece, unit] = recipe_of(one, piece.shape, index.bbox, unit)
            for _, y, x, part, failures in self._tiles.paste(pixels, index, file, source, recipe)[1]:
                gone = np.zeros(piece.shape, bool)
                gone[y, x] = part
                if (gone & free).any():
                    work.lose(*place, at, gone & free, failures)
            np.copyto(to[at], pixels[0], where=free)

    def _fill_psf(self, work: Work, n: int, band: int) -> None:
        """Read the PSF of the file that gives the pixel at the target."""
        target = int(work.targets[n])
        y, x = self._pixel_of(target)
        for patch, region in self._pieces(target):
            index = self._open(work, patch, band)
            if index is None or not _holds(self._extent(index, patch), y, x):
                continue
            if region is not None and not _holds(region, y, x):
                continue
            if isinstance(index, Failure):
                work.fail(n, band, [index])
            else:
                self._paste_psf(work, n, band, index, self._file(patch, band), (y, x))
            return
        if work.present[n, band]:
            work.quality[n, band] |= Quality.NO_PSF

    def _paste_psf(self, work: Work, n: int, band: int, index: FileIndex, file: int, at: tuple[int, int]) -> None:
        kernel = self._tiles.psf(index, file, at)
        if isinstance(kernel, Failure):
            work.fail(n, band, [kernel])
        elif kernel is None or not np.isfinite(kernel).all():
            work.quality[n, band] |= Quality.NO_PSF
        elif work.psf is not None and work.psf_present is not None:
            kernel = kernel / kernel.sum() if self._normalise else kernel
            _centred(work.psf[n, band], kernel, index.uri)
            work.psf_present[n, band] = True

    def _pixel_of(self, target: int) -> tuple[int, int]:
        """Return the tract pixel nearest to a target, halves to even, as `lsst.images` chooses the cell."""
        plan = self._plan
        centre = plan.yx0[target] + (np.asarray(plan.size) - 1) / 2 + plan.offset[target].astype(np.float64)
        y, x = np.rint(centre).astype(np.int64).tolist()
        return y, x

    def _pieces(self, target: int) -> Iterator[tuple[int, Box | None]]:
        """Yield patches in the order of precedence, each with the region in which it counts (None: all of its file)."""
        yield int(self._plan.primary[target]), None
        others = self._plan.others_of(target)
        for patch in others:
            yield patch, self._plan.patches.inner_box(patch)
        for patch in others:
            yield patch, None

    def _extent(self, index: FileIndex | Failure, patch: int) -> Box:
        """Return the pixels that a file holds; of one that cannot be opened, those that its like hold."""
        if isinstance(index, FileIndex):
            return index.bbox
        inner, border = self._plan.patches.inner_box(patch), self._plan.border
        return Box(inner.y0 - border.y, inner.y1 + border.y, inner.x0 - border.x, inner.x1 + border.x)


def _without_edges(box: Box, taken: NDArray[np.bool_]) -> Box:
    """Return a box without the outer rows and columns that are taken: the tiles there need not be read."""
    rows, columns = (np.flatnonzero(~taken.all(axis=axis)) for axis in (1, 0))
    (top, bottom), (left, right) = ((int(some[0]), int(some[-1]) + 1) for some in (rows, columns))
    return Box(box.y0 + top, box.y0 + bottom, box.x0 + left, box.x0 + right)


def _holds(box: Box, y: int, x: int) -> bool:
    return box.y0 <= y < box.y1 and box.x0 <= x < box.x1


def _own_projection(index: FileIndex) -> TanProjection | None:
    """Return a file's own projection, exact where the tract's may be off by 1e-5 px.

    None for a file with distortions, which are below 0.01 px and not to be said in a cutout's eight numbers.
    """
    return index.projection if isinstance(index.projection, TanProjection) else None


def _wcs_numbers(projection: TanProjection) -> NDArray[np.float64]:
    """Return a projection as the eight numbers of a batch's ``wcs``."""
    return np.array([*projection.crval, *projection.crpix, *projection.cd])


def _centred(to: NDArray[np.float32], kernel: NDArray[Any], uri: str) -> None:
    """Put a kernel in the middle of a place that may be larger; all kernels have odd sides."""
    low = [(a - b) // 2 for a, b in zip(to.shape, kernel.shape, strict=True)]
    if min(low) < 0:
        raise GeometryMismatchError(
            f"{uri} has PSF kernels of {kernel.shape[0]} x {kernel.shape[1]} pixels, but other files of the plan have {to.shape[0]} x "
            f"{to.shape[1]}; make separate plans for them"
        )
    to[low[0] : low[0] + kernel.shape[0], low[1] : low[1] + kernel.shape[1]] = kernel
