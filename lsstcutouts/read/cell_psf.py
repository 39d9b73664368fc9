"""The PSF of cutouts: the kernel of the cell that gives the pixel at the target, as a tile of the cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryMismatchError
from ..fits.index import FileIndex
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from .batch_report import Failure
from .cache.tile_cache import Claim
from .cutouts import Cutouts
from .portion import Portion
from .tiles import LostTile, PlaneTiles, TileDecoder

__all__ = ["CellPsf"]

type Integers = NDArray[np.int64]


class CellPsf:
    """The kernels of a portion.

    Parameters
    ----------
    tiles
        Says whether a file's kernels can be read.
    normalise
        Whether a kernel is divided by its sum.
    """

    def __init__(self, tiles: TileDecoder, *, normalise: bool) -> None:
        self._tiles, self._normalise = tiles, normalise

    def add(
        self, cutouts: Cutouts, portion: Portion, planes: list[PlaneTiles]
    ) -> dict[int, list[tuple[int, int, int]]]:
        """Add the cells whose PSF is needed to the planes that are claimed.

        Returns
        -------
        dict
            By number of the plane, for each channel that needs one of its cells: position of the cell, place, band.
        """
        bands, pieces = len(portion.plan.bands), portion.pieces
        pixel = _pixels_at(portion.plan, portion.targets)[pieces.channel // bands]
        (y, x), (y0, y1, x0, x1) = pixel.T, pieces.area.T
        holds = (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
        without = np.zeros(len(portion.channels), bool)
        without[pieces.channel] = True
        without[pieces.channel[holds]] = False
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for piece in np.flatnonzero(holds).tolist():
            file, place = int(pieces.file[piece]), portion.place_of(int(pieces.channel[piece]))
            index = portion.indices[file]
            failure = index if isinstance(index, Failure) else self._tiles.check(index, file, "psf")
            if failure is not None:
                cutouts.fail(*place, [failure])
                continue
            kernels = index.kernels if isinstance(index, FileIndex) else None
            cell = -1 if kernels is None else kernels.cells.cell_at(*pixel[piece].tolist())
            if cell < 0:
                without[pieces.channel[piece]] = True
            else:
                wanted.setdefault(file, []).append((cell, *place))
        cutouts.quality.reshape(-1)[portion.channels[without]] |= int(Quality.NO_PSF)
        result: dict[int, list[tuple[int, int, int]]] = {}
        for file, cells in wanted.items():
            index = portion.indices[file]
            if not isinstance(index, FileIndex) or index.kernels is None:
                continue
            tiles, position = np.unique([cell for cell, _, _ in cells], return_inverse=True)
            rows, columns = (np.full(len(tiles), side) for side in index.kernels.layout.shape)
            result[len(planes)] = [(at, n, band) for at, (_, n, band) in zip(position.tolist(), cells, strict=True)]
            planes.append(PlaneTiles(file, "psf", index, tiles, rows, rows, columns, len(cells)))
        return result

    def paste(
        self,
        cutouts: Cutouts,
        claim: Claim,
        planes: Sequence[PlaneTiles],
        channels: dict[int, list[tuple[int, int, int]]],
        lost: Sequence[LostTile],
    ) -> None:
        """Put the kernels where they belong; ``channels`` is what `add` returned."""
        gone = {(tile.plane, tile.position): tile.failures for tile in lost}
        for i, needed in channels.items():
            for position, n, band in needed:
                if (i, position) in gone:
                    cutouts.fail(n, band, gone[i, position])
                    continue
                shape = int(planes[i].height[position]), int(planes[i].width[position])
                kernel = claim.view(i, position, np.dtype(np.float64), shape)
                if not np.isfinite(kernel).all():
                    cutouts.quality[n, band] |= Quality.NO_PSF
                elif cutouts.psf is not None and cutouts.psf_present is not None:
                    kernel = kernel / kernel.sum() if self._normalise else kernel
                    _centred(cutouts.psf[n, band], kernel, planes[i].index.uri)
                    cutouts.psf_present[n, band] = True


def _pixels_at(plan: CutoutPlan, targets: Integers) -> Integers:
    """Return the tract pixel ``(n, 2)`` nearest to each target, halves to even, as `lsst.images` chooses the cell."""
    centre = plan.yx0[targets] + (np.asarray(plan.size) - 1) / 2 + plan.offset[targets].astype(np.float64)
    return np.rint(centre).astype(np.int64)


def _centred(to: NDArray[np.float32], kernel: NDArray[Any], uri: str) -> None:
    """Put a kernel in the middle of a place that may be larger; all kernels have odd sides."""
    low = [(a - b) // 2 for a, b in zip(to.shape, kernel.shape, strict=True)]
    if min(low) < 0:
        raise GeometryMismatchError(
            f"{uri} has PSF kernels of {kernel.shape[0]} x {kernel.shape[1]} pixels, but other files of the plan have {to.shape[0]} x "
            f"{to.shape[1]}; make separate plans for them"
        )
    to[low[0] : low[0] + kernel.shape[0], low[1] : low[1] + kernel.shape[1]] = kernel
