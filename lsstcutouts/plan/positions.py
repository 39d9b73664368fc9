"""Positions that a footprint asks for, drawn on the sky that the coadds of a repository cover."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ..catalog.footprint import Footprint
from ..catalog.targets import Catalog
from ..errors import ConfigurationError, CoverageError, MemoryBudgetError
from ..sky.geometry import YX
from ..sky.skymap import SkyMap, unit_vectors
from ..source.limits import available_memory
from .arguments import AngularSize, parse_size
from .boxes import rows_by_tract
from .butler_errors import suggest

__all__ = ["CoveredSky", "Keep", "catalog_of_positions", "needed_bands"]

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]

type Keep = Callable[[Catalog], NDArray[np.bool_]]
"""Returns which positions, ``(N,)``, meet the limits on pixels."""

_BLOCK = 1 << 14
"""Random positions of one generator: position k does not depend on how many are drawn at a time."""

_FIRST_ROUND, _ROUND = 1000, 1 << 15
"""Positions whose pixels are looked at together: few at first, so that a limit that none meets is seen soon."""

_LEAST_SHARE = 0.01
"""Smallest share of random positions that may meet the limits."""

_HOPELESS = 1 << 20
"""Random positions after which the covered sky is taken as belonging to other tracts, if not one was accepted."""

_TARGET_BYTES = 200
"""Memory of a target while it is planned."""


def needed_bands(request: Footprint, bands: Sequence[str]) -> tuple[list[int], int]:
    """Return which of the bands of a plan count, as numbers, and in how many of these a position must be covered.

    Raises
    ------
    ConfigurationError
        If the request names other bands, or more than there are.
    """
    wanted = request.bands
    names = {*(wanted if isinstance(wanted, tuple) else ()), *request.depth_by_band}
    for name in sorted(names):
        if name not in bands:
            raise ConfigurationError(f"footprint: no band {name!r} in the plan{suggest(name, bands)}")
    if isinstance(wanted, int):
        if wanted > len(bands):
            raise ConfigurationError(f"footprint: bands={wanted} is more than the {len(bands)} bands of the plan")
        return list(range(len(bands))), wanted
    if names and wanted != "all":
        return [number for number, band in enumerate(bands) if band in names], len(names)
    return list(range(len(bands))), len(bands) if wanted == "all" else 1


@dataclass(frozen=True, eq=False)
class CoveredSky:
    """The inner regions of P patches, in the part of the sky that belongs to their tracts.

    Attributes
    ----------
    skymap
        Has the tracts of all patches.
    tract, patch
        ``(P,)`` numbers, ascending.
    """

    skymap: SkyMap
    tract: Ints
    patch: Ints

    @property
    def inner(self) -> Ints:
        """Inner regions, ``(P, 4)`` tract pixels ``(y0, y1, x0, x1)``."""
        pairs = zip(self.tract.tolist(), self.patch.tolist(), strict=True)
        return np.array([self.skymap.tracts[t].inner_box(p) for t, p in pairs], np.int64).reshape(-1, 4)

    def uniform(self, seed: int) -> Iterator[Floats]:
        """Yield random positions, uniform on the sphere, without end: ``(n, 2)`` RA and Dec, degrees ICRS.

        A gnomonic projection enlarges areas at a distance ``t`` from its tangent point by ``1 / cos(t)**3`` (Calabretta &
        Greisen 2002, A&A 395, 1077, section 5.1.3), so positions that are uniform in pixels are kept with the probability
        ``cos(t)**3``. Of the rest those are kept that the skymap assigns to the tract and patch whose pixels they are.
        """
        inner = self.inner
        scale = {t: np.prod(self.skymap.tracts[t].projection.pixel_scale) for t in np.unique(self.tract).tolist()}
        area = (inner[:, 1] - inner[:, 0]) * (inner[:, 3] - inner[:, 2]) * [scale[t] for t in self.tract.tolist()]
        edges = np.cumsum(area)
        for block in count():
            rng = np.random.default_rng([seed, 3, block])
            row = np.searchsorted(edges, rng.random(_BLOCK) * edges[-1], side="right").clip(max=len(edges) - 1)
            corner, side = inner[row][:, [0, 2]] - 0.5, inner[row][:, [1, 3]] - inner[row][:, [0, 2]]
            sky, cosine, own = self._on_sky(row, corner + rng.random((_BLOCK, 2)) * side)
            yield sky[own & (rng.random(_BLOCK) < cosine**3)]

    def grid(self, spacing: YX[int]) -> Iterator[Floats]:
        """Yield the centres of grid cells of ``spacing`` pixels of each tract, patch by patch: ``(n, 2)`` degrees ICRS."""
        for row, box in enumerate(self.inner):
            y, x = (_centres(box[2 * axis], box[2 * axis + 1], spacing[axis]) for axis in range(2))
            yx = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
            sky, _, own = self._on_sky(np.full(len(yx), row), yx)
            yield sky[own]

    def _on_sky(self, row: Ints, yx: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return where pixels ``(N, 2)`` of patches are on the sky.

        Returns
        -------
        tuple
            Positions ``(N, 2)``, degrees; cosines ``(N,)`` of their distance from the tangent point; whether the skymap
            assigns each to its patch, ``(N,)``.
        """
        tract, patch = self.tract[row], self.patch[row]
        sky, cosine, own = np.empty((len(row), 2)), np.empty(len(row)), np.empty(len(row), bool)
        for one, rows in rows_by_tract(self.skymap.tracts, tract):
            sky[rows] = np.stack(one.projection.pixel_to_sky(*yx[rows].T), -1)
            cosine[rows] = unit_vectors(*sky[rows].T) @ unit_vectors(*one.projection.crval)
            # Computed from the sky again, as a plan does: rounding may move a position on an edge to the next patch.
            back = one.projection.sky_to_pixel(*sky[rows].T)
            own[rows] = one.patch_at(back.y, back.x) == patch[rows]
        return sky, cosine, own & (self.skymap.find(*sky.T) == tract)


def _centres(low: int, high: int, spacing: int) -> Floats:
    """Return the centres of a tract's grid cells, counted from pixel 0, in the pixels from low to high; also on both edges."""
    middle = (spacing - 1) / 2
    first, last = np.ceil((low - 0.5 - middle) / spacing), np.floor((high - 0.5 - middle) / spacing)
    return np.arange(first, last + 1) * spacing + middle


def catalog_of_positions(
    request: Footprint, sky: CoveredSky, columns: Sequence[str], size: YX[int] | AngularSize, keep: Keep | None
) -> Catalog:
    """Return the catalog of the positions that a footprint asks for.

    Parameters
    ----------
    request
        How many, and which.
    sky
        Where coadds are.
    columns
        Of `FOOTPRINT_COLUMNS`, those that the catalog gets.
    size
        Of a cutout.
    keep
        Which positions meet the limits on pixels; None without limits.

    Raises
    ------
    CoverageError
        If there are no positions, or too few random ones meet the limits.
    MemoryBudgetError
        If they need more memory than is free.
    """
    if request.kind == "grid":
        found = _grid_positions(request, sky, size, keep)
    else:
        assert request.n is not None
        _check_memory(request, request.n)
        found = _uniform_positions(request, request.n, sky, keep)
    if not len(found):
        what = "no position of the grid lies on" if request.kind == "grid" else "no random position lies on"
        raise CoverageError(
            f"{request}: {what} the covered sky{'' if keep is None else ' and meets the limits on its pixels'}; the"
            f" {len(sky.patch)} patches with coadds may be smaller than the spacing, or lie where the skymap assigns the"
            " sky to neighbouring tracts"
        )
    number, view = np.divmod(np.arange(len(found) * request.views), request.views)
    every = {"position": number, "view": view}
    return Catalog(
        np.arange(len(number)),
        found[number, 0],
        found[number, 1],
        columns={name: every[name] for name in columns},
        source=str(request),
    )


def _uniform_positions(request: Footprint, total: int, sky: CoveredSky, keep: Keep | None) -> Floats:
    """Return random positions, ``(total, 2)`` degrees; none if not one random position belongs to its tract."""
    stream = sky.uniform(request.seed)
    waiting, found = np.zeros((0, 2)), np.zeros((0, 2))
    drawn = seen = 0
    wanted = total if keep is None else min(total, _FIRST_ROUND)
    while len(found) < total:
        parts = [waiting]
        while (there := sum(map(len, parts))) < wanted:
            if there == seen == 0 and drawn > _HOPELESS:
                return found
            parts.append(next(stream))
            drawn += _BLOCK
        looked, waiting = np.split(np.concatenate(parts), [wanted])
        seen += wanted
        found = np.concatenate([found, looked if keep is None else looked[keep(_bare(looked))]])
        share = len(found) / seen
        if share < _LEAST_SHARE and seen >= _FIRST_ROUND and len(found) < total:
            raise CoverageError(
                f"{request}: only {len(found)} of {seen} random positions ({share:.2%}) have enough valid pixels and depth in"
                " enough bands; give a smaller min_valid or min_depth, or fewer bands"
            )
        likely = 16 + 1.1 * (total - len(found)) / max(share, _LEAST_SHARE)
        wanted = int(min(likely, max(seen, _FIRST_ROUND), _ROUND))
    return found[:total]


def _grid_positions(request: Footprint, sky: CoveredSky, size: YX[int] | AngularSize, keep: Keep | None) -> Floats:
    """Return the positions of a grid, ``(N, 2)`` degrees."""
    scale = next(iter(sky.skymap.tracts.values())).projection.pixel_scale
    if request.spacing is not None:
        try:
            size = parse_size(request.spacing)
        except ConfigurationError as error:
            raise ConfigurationError(f"footprint: spacing={request.spacing!r} is not valid: {error}") from error
    spacing = size.pixels(scale) if isinstance(size, AngularSize) else size
    inner = sky.inner
    _check_memory(request, int((inner[:, 1] - inner[:, 0]) @ (inner[:, 3] - inner[:, 2])) // (spacing.y * spacing.x))
    found = np.concatenate([np.zeros((0, 2)), *sky.grid(spacing)])
    if keep is None:
        return found
    parts = [found[at : at + _ROUND] for at in range(0, len(found), _ROUND)]
    return np.concatenate([np.zeros((0, 2)), *(part[keep(_bare(part))] for part in parts)])


def _bare(sky: Floats) -> Catalog:
    """Return a catalog of positions ``(N, 2)`` in degrees, numbered from 0."""
    return Catalog(np.arange(len(sky)), sky[:, 0], sky[:, 1])


def _check_memory(request: Footprint, positions: int) -> None:
    needed, free = positions * request.views * _TARGET_BYTES, available_memory()
    if needed > free:
        raise MemoryBudgetError(
            f"{request}: about {positions * request.views:.3g} targets need {needed / 1e9:.1f} GB, but only"
            f" {free / 1e9:.1f} GB of memory are free; give a smaller n, or a larger spacing"
        )
