"""Decoded cache units of a plan's files, through the cache: scaled to nJy, mask bits renumbered, damage told."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache import TileCache
from ..errors import ReadError
from ..fits import Coadd, salvage
from ..geom import YX
from ..plan import CutoutPlan
from .account import Failure
from .files import OpenFiles, located, place_of
from .masks import mask_hdus, places_of, renumbered
from .options import ReadOptions
from .recipe import Recipe

__all__ = ["Lost", "TileReader"]

type Array = NDArray[Any]
type Lost = tuple[int, slice, slice, NDArray[np.bool_], tuple[Failure, ...]]
"""Pixels that cannot be read: box, rows and columns in it, which of those, and why."""


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
    """

    def __init__(self, plan: CutoutPlan, options: ReadOptions, cache: TileCache, files: OpenFiles) -> None:
        self._plan, self._cache, self._files = plan, cache, files
        self._raises = options.on_read_error == "raise"
        self._to_njy = options.flux_unit == "nJy"
        self._bits = options.mask_bits
        self._names = {
            "image": "image" if self._to_njy else "image:native",
            "variance": "variance" if self._to_njy else "variance:native",
            "mask": "mask:" + ",".join(self._bits),
        }

    def open(self, file: int, tract: int) -> Coadd | Failure:
        """Return an open file."""
        try:
            return self._files.get(self._plan, file, tract)
        except ReadError as error:
            return self._failure(error, file, "")

    def unit_shape(self, coadd: Coadd, file: int, source: str) -> YX[int] | Failure:
        """Return the shape of a plane's cache units."""
        try:
            return coadd.layout(source).unit_shape
        except ReadError as error:
            return self._failure(error, file, source)

    def paste(self, to: Array, coadd: Coadd, file: int, source: str, recipe: Recipe) -> list[Lost]:
        """Paste one plane of boxes ``(N, Y, X)`` as a recipe says; return the pixels that cannot be read."""
        try:
            tiles = self._units(coadd, file, source, recipe.units, recipe.requests)
        except ReadError as error:
            return self._paste_the_rest(to, coadd, file, source, recipe, self._failure(error, file, source))
        for k, n, to_y, to_x, from_y, from_x in recipe.copies:
            to[n, to_y, to_x] = tiles[k][from_y, from_x]
        return []

    def psf(self, coadd: Coadd, file: int, at: tuple[int, int]) -> NDArray[np.float64] | Failure | None:
        """Return the PSF kernel of the cell that holds a tract pixel ``(y, x)``, None where it has none."""
        try:
            cell = coadd.psf.cell_at(*at)
            if cell < 0:
                return None
            key = (self._plan.files.dataset_id[file], "psf", cell)
            kernel: NDArray[np.float64] = self._cache.get(key, lambda: coadd.read_psf([cell])[0])
        except ReadError as error:
            return self._failure(error, file, "psf")
        return kernel

    def _units(
        self, coadd: Coadd, file: int, source: str, units: Sequence[int], requests: Sequence[int] | None = None
    ) -> list[Array]:
        """Return decoded units, from the cache or the file."""
        dataset = self._plan.files.dataset_id[file]
        keys = [(dataset, self._names[source], unit) for unit in units]

        def make(places: list[int]) -> list[Array]:
            return self._decoded(coadd, source, [units[i] for i in places])

        return self._cache.get_many(keys, make, requests)

    def _decoded(self, coadd: Coadd, source: str, units: Sequence[int]) -> list[Array]:
        if source != "mask":
            return [self._scaled(coadd, source, pixels) for pixels in coadd.read_units(source, units)]
        places = places_of(coadd, self._bits)
        planes = {plane: coadd.read_units(plane, units) for plane in mask_hdus(places)}
        return [renumbered({name: of[i] for name, of in planes.items()}, places) for i in range(len(units))]

    def _scaled(self, coadd: Coadd, source: str, pixels: Array) -> Array:
        """Return pixels in nJy (nJy² for the variance)."""
        scale = coadd.flux_scale if self._to_njy else 1.0
        if scale == 1.0:
            return pixels
        factor = scale if source == "image" else scale * scale
        return np.multiply(pixels, factor, dtype=np.float64).astype(np.float32)

    def _paste_the_rest(
        self, to: Array, coadd: Coadd, file: int, source: str, recipe: Recipe, failure: Failure
    ) -> list[Lost]:
        """Paste what can be read of a recipe, unit by unit and where one is damaged tile by tile."""
        lost: list[Lost] = []
        salvaged = [self._salvaged(coadd, file, source, unit, failure) for unit in recipe.units]
        for k, n, to_y, to_x, from_y, from_x in recipe.copies:
            pixels, gone, failures = salvaged[k]
            to[n, to_y, to_x] = pixels[from_y, from_x]
            if gone[from_y, from_x].any():
                lost.append((n, to_y, to_x, gone[from_y, from_x], failures))
        return lost

    def _salvaged(
        self, coadd: Coadd, file: int, source: str, unit: int, failure: Failure
    ) -> tuple[Array, NDArray[np.bool_], tuple[Failure, ...]]:
        """Return a unit's pixels, which of them are lost, and why."""
        shape = coadd.layout(source).unit_box(unit).shape
        nothing = np.zeros(shape, np.int32 if source == "mask" else np.float32), np.ones(shape, bool)
        known = (self._plan.files.dataset_id[file], self._names[source], unit) in self._cache
        if failure.transient and not known:  # the next tile would wait for as long in vain
            return *nothing, (failure,)
        try:
            return self._units(coadd, file, source, [unit], [0])[0], np.zeros(shape, bool), ()
        except ReadError:
            pass
        try:
            pixels, gone, errors = self._tile_by_tile(coadd, source, unit)
        except ReadError as error:
            return *nothing, (self._failure(error, file, source),)
        return pixels, gone, tuple(self._failure(error, file, source) for error in errors)

    def _tile_by_tile(self, coadd: Coadd, source: str, unit: int) -> tuple[Array, NDArray[np.bool_], list[ReadError]]:
        if source != "mask":
            pixels, gone, errors = salvage(coadd, source, unit)
            return self._scaled(coadd, source, pixels), gone, errors
        places = places_of(coadd, self._bits)
        parts = {plane: salvage(coadd, plane, unit) for plane in mask_hdus(places)}
        gone = np.logical_or.reduce([part[1] for part in parts.values()])
        errors = [error for part in parts.values() for error in part[2]]
        return renumbered({name: part[0] for name, part in parts.items()}, places), gone, errors

    def _failure(self, error: ReadError, file: int, plane: str) -> Failure:
        """Return what is to be told of an error, or raise it with the place of its file."""
        if self._raises:
            raise located(error, self._plan, file) from error
        tract, patch, band = place_of(self._plan, file)
        return Failure(
            self._plan.files.uri[file], tract, patch, band, plane, type(error).__name__, str(error), error.transient
        )
