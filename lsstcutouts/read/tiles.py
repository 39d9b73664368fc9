"""Decoded cache units of a plan's files, through the cache: scaled to nJy, mask bits renumbered, damage told."""

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..errors.secrets import without_query
from ..fits.decode import decode_units
from ..fits.fused import is_fused
from ..fits.index import FileIndex
from ..fits.intact_tiles import read_intact_tiles
from ..fits.pixels import Unit
from ..fits.plane_errors import PlaneErrors
from ..fits.psf import CellKernels
from ..fits.stages import StageClock
from ..plan.cutout_plan import CutoutPlan
from ..sky.geometry import YX
from .batch_report import Failure
from .cache.tile_cache import TileCache
from .depth import Depths
from .masks import mask_hdus, renumbered
from .open_files import OpenFiles, located, place_of
from .options import ReaderOptions
from .recipe import Recipe, paste

__all__ = ["Lost", "TileReader"]

type Array = NDArray[Any]
type Lost = tuple[int, slice, slice, NDArray[np.bool_], tuple[Failure, ...]]
"""Pixels that cannot be read: box, rows and columns in it, which of those, and why."""


_NONE = np.empty(0, np.int64)


class TileReader:
    """Reads and pastes pixels of a plan's files.

    What cannot be read raises, or comes back as a `Failure` where the options say so.

    Parameters
    ----------
    plan
        Names the files.
    options
        What a file that cannot be read does, the unit of the flux, and the mask planes.
    cache, files
        Where decoded tiles and open files are kept.
    clock
        Adds up the time of reading and decoding.
    whole_tiles
        Whether tiles are decoded as a whole, for plans to come, where this plan needs only their first rows.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        options: ReaderOptions,
        cache: TileCache,
        files: OpenFiles,
        clock: StageClock | None = None,
        *,
        whole_tiles: bool = False,
    ) -> None:
        self._plan, self._cache, self._files, self._clock = plan, cache, files, clock
        self._depths = None if whole_tiles else Depths(plan)
        self._raises = options.on_read_error == "raise"
        self._options = options
        unit = "" if options.flux_unit == "nJy" else ":native"
        self._names = {
            "image": f"image{unit}",
            "variance": f"variance{unit}",
            "mask": "mask:" + ",".join(options.mask_bits),
        }

    def open(self, file: int, tract: int) -> FileIndex | Failure:
        """Return the index of a file."""
        try:
            with nullcontext() if self._clock is None else self._clock.time("locate"):
                return self._files.index(self._plan, file, tract, self._options)
        except ReadError as error:
            return self._failure(error, file, "")

    def unit_shape(self, index: FileIndex, file: int, source: str) -> YX[int] | Failure:
        """Return the shape of a plane's cache units."""
        try:
            return index.layout(source).unit_shape
        except ReadError as error:
            return self._failure(error, file, source)

    def paste(
        self, to: Array, index: FileIndex, file: int, source: str, recipe: Recipe
    ) -> tuple[NDArray[np.int64], list[Lost]]:
        """Paste one plane of boxes ``(N, Y, X)`` as a recipe says.

        Returns
        -------
        doubtful
            Boxes with a pixel that may not be finite.
        lost
            Pixels that cannot be read.
        """
        try:
            units = self._units(index, file, source, recipe)
        except ReadError as error:
            failure = self._failure(error, file, source)
            return recipe.copies[:, 1], self._paste_the_rest(to, index, file, source, recipe, failure)
        paste(to, units, recipe)
        doubtful = [k for k, unit in enumerate(units) if not unit.finite]
        return recipe.copies[np.isin(recipe.copies[:, 0], doubtful), 1] if doubtful else _NONE, []

    def psf(self, index: FileIndex, file: int, at: tuple[int, int]) -> NDArray[np.float64] | Failure | None:
        """Return the PSF kernel of the cell that holds a tract pixel ``(y, x)``, None where it has none."""
        try:
            index.check("psf")
            if index.kernels is None or (cell := index.kernels.cells.cell_at(*at)) < 0:
                return None
            key = (self._plan.files.dataset_id[file], "psf", cell)
            kernel: NDArray[np.float64] = self._cache.get(key, partial(self._kernel, index, index.kernels, file, cell))
        except ReadError as error:
            return self._failure(error, file, "psf")
        return kernel

    def _kernel(self, index: FileIndex, kernels: CellKernels, file: int, cell: int) -> NDArray[np.float64]:
        with PlaneErrors(index.uri, "psf"):
            return kernels.read(self._files.source(self._plan, file, index), [cell])[0]

    def _units(self, index: FileIndex, file: int, source: str, recipe: Recipe) -> list[Unit]:
        """Return decoded units, from the cache or the file."""
        dataset, name = self._plan.files.dataset_id[file], self._names[source]
        units, rows = recipe.units, self._rows(index, file, source, recipe.units)
        keys: list[Hashable] = [(dataset, name, unit) for unit in units]
        if rows is not None:
            # Plans that look into a unit to different depths do not share what they decode of it.
            keys = [(dataset, name, *place) for place in zip(units, rows, strict=True)]

        def make(places: list[int]) -> list[Unit]:
            return self._decoded(
                index, file, source, [units[i] for i in places], None if rows is None else [rows[i] for i in places]
            )

        return self._cache.get_many(keys, make, recipe.requests)

    def _rows(self, index: FileIndex, file: int, source: str, units: Sequence[int]) -> list[int] | None:
        """Return how many rows of units the plan's targets need; None for all of them."""
        if self._depths is None or source == "mask" or not is_fused(index.layout(source)):
            return None
        patch = int(self._plan.patches.row_and_band[file, 0])
        return self._depths.rows(patch, index.bbox, index.layout(source).unit_shape)[units].tolist()  # type: ignore[no-any-return]

    def _decoded(
        self, index: FileIndex, file: int, source: str, units: Sequence[int], rows: Sequence[int] | None
    ) -> list[Unit]:
        opened = self._files.source(self._plan, file, index)
        planes: dict[str, list[Unit]] = {}
        for plane in mask_hdus(index.mask_bits) if source == "mask" else [source]:
            layout = index.layout(plane)
            with PlaneErrors(index.uri, plane):
                planes[plane] = decode_units(opened, layout, units, rows, self._clock, self._cache.memory)
            self._cache.note(read=layout.bytes_of(units))
        if source == "mask":
            masks = [{name: of[i].pixels for name, of in planes.items()} for i in range(len(units))]
            return [Unit(renumbered(of, index.mask_bits)) for of in masks]
        scale = _scale(index, source)
        return planes[source] if scale == 1.0 else [Unit(_scaled(unit.pixels, scale)) for unit in planes[source]]

    def _paste_the_rest(
        self, to: Array, index: FileIndex, file: int, source: str, recipe: Recipe, failure: Failure
    ) -> list[Lost]:
        """Paste what can be read of a recipe, unit by unit and where one is damaged tile by tile."""
        lost: list[Lost] = []
        salvaged = [self._salvaged(index, file, source, unit, failure) for unit in recipe.units]
        for k, n, *place, height, width in recipe.copies.tolist():
            to_y, to_x, from_y, from_x = (
                slice(at, at + length) for at, length in zip(place, (height, width) * 2, strict=True)
            )
            pixels, gone, failures = salvaged[k]
            to[n, to_y, to_x] = pixels[from_y, from_x]
            if gone[from_y, from_x].any():
                lost.append((n, to_y, to_x, gone[from_y, from_x], failures))
        return lost

    def _salvaged(
        self, index: FileIndex, file: int, source: str, unit: int, failure: Failure
    ) -> tuple[Array, NDArray[np.bool_], tuple[Failure, ...]]:
        """Return a unit's pixels, which of them are lost, and why."""
        shape = index.layout(source).unit_box(unit).shape
        nothing = np.zeros(shape, np.int32 if source == "mask" else np.float32), np.ones(shape, bool)
        key = (self._plan.files.dataset_id[file], self._names[source], unit)
        if failure.transient and key not in self._cache:  # the next tile would wait for as long in vain
            return *nothing, (failure,)
        try:
            whole = self._cache.get_many([key], lambda _: self._decoded(index, file, source, [unit], None), [0])[0]
            return whole.pixels, np.zeros(shape, bool), ()
        except ReadError:
            pass
        try:
            pixels, gone, errors = self._tile_by_tile(index, file, source, unit)
        except ReadError as error:
            return *nothing, (self._failure(error, file, source),)
        return pixels, gone, tuple(self._failure(error, file, source) for error in errors)

    def _tile_by_tile(
        self, index: FileIndex, file: int, source: str, unit: int
    ) -> tuple[Array, NDArray[np.bool_], list[ReadError]]:
        opened = self._files.source(self._plan, file, index)
        if source != "mask":
            pixels, gone, errors = read_intact_tiles(opened, index.uri, index.layout(source), unit)
            return _scaled(pixels, _scale(index, source)), gone, errors
        planes = mask_hdus(index.mask_bits)
        parts = {plane: read_intact_tiles(opened, index.uri, index.layout(plane), unit) for plane in planes}
        gone = np.logical_or.reduce([part[1] for part in parts.values()])
        errors = [error for part in parts.values() for error in part[2]]
        return renumbered({name: part[0] for name, part in parts.items()}, index.mask_bits), gone, errors

    def _failure(self, error: ReadError, file: int, plane: str) -> Failure:
        """Return what is to be told of an error, or raise it with the place of its file."""
        if self._raises:
            raise located(error, self._plan, file) from error
        tract, patch, band = place_of(self._plan, file)
        return Failure(
            without_query(self._plan.files.uri[file]),
            tract,
            patch,
            band,
            plane,
            type(error).__name__,
            str(error),
            error.transient,
        )


def _scale(index: FileIndex, plane: str) -> float:
    """Return what converts the image to nJy, the variance to nJy²."""
    return index.scale if plane == "image" else index.scale * index.scale


def _scaled(pixels: Array, factor: float) -> Array:
    return pixels if factor == 1.0 else np.multiply(pixels, factor, dtype=np.float64).astype(np.float32)
