"""From cached tiles to one batch of arrays: crop, stitch across patches, fill, validity.

The unit of work is a batch. Its arrays are made fresh, filled by several threads (each its own targets) and
never touched again once they are handed over.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cache import TileCache
from ..errors import ConfigurationError
from ..fits import Coadd
from ..geom import YX, Box
from ..plan import CutoutPlan
from .files import OpenFiles
from .masks import bits_of, renumbered
from .recipe import Recipe, recipe_of

__all__ = ["PLANES", "CutoutReader", "checked_planes", "checked_targets", "default_threads", "stream"]

type Array = NDArray[Any]
type Batch = dict[str, Array | list[str]]

PLANES = ("image", "variance", "mask", "valid")
"""Planes that a batch can hold, each ``(N, B, Y, X)``."""

_PART = 32
"""Targets that one thread fills at a time: enough to share tiles, few enough to spread a batch over threads."""


def default_threads() -> int:
    """Return the number of cores that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class CutoutReader:
    """Reads targets of a plan into batches of arrays; may be used from several threads.

    Parameters
    ----------
    plan
        What to read.
    planes
        Any of `PLANES`.
    mask_planes
        Names of the mask planes for ``mask``: bit ``i`` of the result is ``mask_planes[i]`` in every file.
    cache, files
        Where decoded tiles and open files are kept; by default this reader's own.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        *,
        planes: Sequence[str] = ("image",),
        mask_planes: Sequence[str] = (),
        cache: TileCache | None = None,
        files: OpenFiles | None = None,
    ) -> None:
        self.plan = plan
        self.planes = checked_planes(planes, mask_planes)
        self.mask_planes = tuple(mask_planes)
        self.cache = TileCache() if cache is None else cache
        self._files = OpenFiles() if files is None else files
        # NO_DATA stands behind the planes that were asked for, so that validity needs no second look-up.
        self._bits = (*self.mask_planes, "NO_DATA")
        self._sources = _sources(self.planes)

    def close(self) -> None:
        """Close every file; a later read opens them again."""
        self._files.close()

    def read(self, targets: NDArray[np.int64]) -> Batch:
        """Return one batch, read by the calling thread alone."""
        arrays = self._allocated(len(targets))
        self._fill(arrays, targets, range(len(targets)))
        return self._finished(arrays, targets)

    def submit(self, pool: ThreadPoolExecutor, targets: NDArray[np.int64]) -> "_Pending":
        """Start reading one batch in a pool."""
        arrays = self._allocated(len(targets))
        near = np.lexsort((self.plan.yx0[targets, 1], self.plan.yx0[targets, 0], self.plan.primary[targets]))
        parts = [near[i : i + _PART].tolist() for i in range(0, len(near), _PART)]
        done = [pool.submit(self._fill, arrays, targets, part) for part in parts]
        return _Pending(done, partial(self._finished, arrays, targets))

    def _allocated(self, count: int) -> dict[str, Array]:
        shape = (count, len(self.plan.bands), *self.plan.size)
        arrays: dict[str, Array] = {name: np.zeros(shape, dtype) for name, dtype in self._sources.items()}
        arrays["band_present"] = np.zeros(shape[:2], bool)
        if "valid" in self.planes:
            arrays["valid"] = np.zeros(shape, bool)
        return arrays

    def _finished(self, arrays: dict[str, Array], targets: NDArray[np.int64]) -> Batch:
        plan = self.plan
        batch: Batch = {name: arrays[name] for name in self.planes if name != "mask"}
        if "mask" in self.planes:
            batch["mask"] = arrays["mask"] & ((1 << len(self.mask_planes)) - 1)
        batch["band_present"] = arrays["band_present"]
        batch["object_id"] = plan.object_id[targets]
        batch["ra"], batch["dec"] = plan.ra[targets], plan.dec[targets]
        primary = plan.primary[targets]
        batch["tract"], batch["patch"] = plan.patches.tract[primary], plan.patches.patch[primary]
        batch["yx0"] = plan.yx0[targets].astype(np.int64)
        batch["offset"] = plan.offset[targets]
        batch["is_padding"] = np.zeros(len(targets), bool)
        for name, values in plan.columns.items():
            batch[name] = [values[t] for t in targets.tolist()] if isinstance(values, list) else values[targets]
        return batch

    def _fill(self, arrays: dict[str, Array], targets: NDArray[np.int64], part: Iterable[int]) -> None:
        """Read the targets at the places ``part`` of the batch."""
        by_patch: dict[int, list[int]] = {}
        for n in part:
            by_patch.setdefault(int(self.plan.primary[targets[n]]), []).append(n)
        for patch, places in by_patch.items():
            self._fill_patch(arrays, targets, patch, places)
            for n in places:
                self._settle(arrays, n)

    def _fill_patch(self, arrays: dict[str, Array], targets: NDArray[np.int64], patch: int, places: list[int]) -> None:
        """Read targets of one primary patch: whole boxes straight from its files, the others stitched."""
        tract = int(self.plan.patches.tract[patch])
        boxes = [(n, *self.plan.yx0[targets[n]].tolist()) for n in places]
        recipes: dict[tuple[Box, YX[int]], Recipe] = {}
        for band, file in enumerate(self.plan.patches.files[patch].tolist()):
            torn = places
            if file >= 0:
                coadd = self._files.get(self.plan, file, tract)
                for source in self._sources:
                    grid = coadd.bbox, coadd.layout(source).unit_shape
                    if grid not in recipes:
                        recipes[grid] = recipe_of(boxes, self.plan.size, *grid)
                    self._paste(arrays[source][:, band], coadd, file, source, recipes[grid])
                # Which boxes leave the file depends on its bbox alone, so any of its recipes tells.
                torn, whole = recipes[grid].partial, recipes[grid].whole
                arrays["band_present"][whole, band] = True
                if "valid" in arrays:
                    arrays["valid"][whole, band] = True
            for n in torn:
                self._stitch(arrays, n, band, int(targets[n]))

    def _paste(self, to: Array, coadd: Coadd, file: int, source: str, recipe: Recipe) -> None:
        tiles = self._tiles(coadd, file, source, recipe)
        for k, n, to_y, to_x, from_y, from_x in recipe.copies:
            to[n, to_y, to_x] = tiles[k][from_y, from_x]

    def _tiles(self, coadd: Coadd, file: int, source: str, recipe: Recipe) -> list[Array]:
        """Return the decoded units of a recipe, from the cache or the file."""
        dataset = self.plan.files.dataset_id[file]
        name = "mask:" + ",".join(self._bits) if source == "mask" else source
        keys = [(dataset, name, unit) for unit in recipe.units]

        def make(places: list[int]) -> list[Array]:
            units = coadd.read_units(source, [recipe.units[i] for i in places])
            if source != "mask":
                return units
            bits = bits_of(coadd, self._bits)
            return [renumbered(unit, bits) for unit in units]

        return self.cache.get_many(keys, make, recipe.requests)

    def _stitch(self, arrays: dict[str, Array], n: int, band: int, target: int) -> None:
        """Read one box of one band from every patch under it, the first in the order of `_pieces` wins."""
        box = Box.from_start(YX(*self.plan.yx0[target].tolist()), self.plan.size)
        filled = np.zeros(self.plan.size, bool)
        for patch, region in self._pieces(target):
            file = int(self.plan.patches.files[patch, band])
            if file < 0:
                continue
            coadd = self._files.get(self.plan, file, int(self.plan.patches.tract[patch]))
            piece = box.intersection(coadd.bbox if region is None else region.intersection(coadd.bbox))
            if piece.is_empty:
                continue
            place = piece.slices(box.start)
            free = ~filled[place]
            if not free.any():
                continue
            for source, dtype in self._sources.items():
                pixels = np.zeros((1, *piece.shape), dtype)
                unit = coadd.layout(source).unit_shape
                self._paste(
                    pixels, coadd, file, source, recipe_of([(0, piece.y0, piece.x0)], piece.shape, coadd.bbox, unit)
                )
                np.copyto(arrays[source][n, band][place], pixels[0], where=free)
            filled[place] = True
            if filled.all():
                break
        arrays["band_present"][n, band] = filled.any()
        if "valid" in arrays:
            arrays["valid"][n, band] = filled

    def _pieces(self, target: int) -> Iterator[tuple[int, Box | None]]:
        """Yield patches in the order of precedence, each with the region in which it counts (None: all of its file)."""
        yield int(self.plan.primary[target]), None
        others = self.plan.others_of(target)
        for patch in others:
            yield patch, self.plan.patches.inner_box(patch)
        for patch in others:
            yield patch, None

    def _settle(self, arrays: dict[str, Array], n: int) -> None:
        """Set pixels that are not finite to 0 and work out which pixels are valid."""
        if "image" in arrays:
            finite = np.isfinite(arrays["image"][n])
            if not finite.all():
                arrays["image"][n][~finite] = 0.0
                if "valid" in arrays:
                    arrays["valid"][n] &= finite
        if "valid" in arrays:
            arrays["valid"][n] &= (arrays["mask"][n] >> len(self.mask_planes)) & 1 == 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch under way."""

    parts: list["Future[None]"]
    finish: Any

    def result(self) -> Batch:
        for part in self.parts:
            part.result()
        return self.finish()  # type: ignore[no-any-return]


def stream(reader: CutoutReader, batches: Iterable[NDArray[np.int64]], *, threads: int, ahead: int) -> Iterator[Batch]:
    """Yield batches in the order asked for, whatever order threads finish in.

    Parameters
    ----------
    reader
        Reads them; its files are closed when the generator ends or is dropped.
    batches
        Target numbers of each batch.
    threads
        Size of the pool, which lives as long as the generator.
    ahead
        Batches under way beyond the one that is waited for.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lsstcutouts")
    waiting: deque[_Pending] = deque()
    try:
        for targets in batches:
            waiting.append(reader.submit(pool, targets))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        reader.close()


def checked_targets(rows: ArrayLike | None, plan: CutoutPlan) -> NDArray[np.int64]:
    """Return target numbers of a plan from numbers, from a mask of all targets, or all of them for None.

    Raises
    ------
    ConfigurationError
        If they are no whole numbers within the plan.
    """
    if rows is None:
        return np.arange(len(plan))
    array = np.asarray(rows)
    if array.dtype == np.bool_ and array.shape == (len(plan),):
        return np.flatnonzero(array)
    whole = array.size == 0 or np.issubdtype(array.dtype, np.integer)
    if not whole or array.ndim > 1 or (array.size and not (array.min() >= 0 and array.max() < len(plan))):
        raise ConfigurationError(
            f"rows must be whole numbers that lie between 0 and {len(plan) - 1}, the targets of the plan, or a mask of all "
            f"{len(plan)}; got {array.dtype} of shape {array.shape}"
        )
    return array.reshape(-1).astype(np.int64)


def checked_planes(planes: Sequence[str], mask_planes: Sequence[str]) -> tuple[str, ...]:
    """Return the planes to deliver; raise `ConfigurationError` for what cannot be."""
    planes = (planes,) if isinstance(planes, str) else tuple(planes)
    unknown = [p for p in planes if p not in PLANES]
    if unknown or not planes:
        raise ConfigurationError(f"planes must be some of {', '.join(PLANES)}, got {planes!r}")
    if ("mask" in planes) != bool(mask_planes):
        raise ConfigurationError("planes=('mask', ...) and mask_planes=(names, ...) go together; give both or neither")
    if len(mask_planes) > 30 or len(set(mask_planes)) < len(mask_planes) or isinstance(mask_planes, str):
        raise ConfigurationError(f"mask_planes must be at most 30 different names, got {mask_planes!r}")
    return planes


def _sources(planes: Sequence[str]) -> dict[str, type[np.generic]]:
    """Return the file planes to read and the type of their arrays; validity needs image and mask."""
    needed: dict[str, type[np.generic]] = {}
    if {"image", "valid"} & set(planes):
        needed["image"] = np.float32
    if "variance" in planes:
        needed["variance"] = np.float32
    if {"mask", "valid"} & set(planes):
        needed["mask"] = np.int32
    return needed
