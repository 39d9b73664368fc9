"""Settings of the simulation, checked by the constructor."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np

from ..errors import ConfigurationError
from ..sky.geometry import YX

__all__ = ["SimulationConfig"]

FULL_SIZE = (YX(20, 20), YX(150, 150), YX(10, 10), 0.2)
"""Cells per patch, pixels per cell, patches per tract, and arcseconds per pixel of the real DP1 and DP2 skymaps."""

KNOWN_BANDS = "ugrizy"
TRACT_COUNT = 18938
SMALLEST_CELL = 16
FEW_MISSING = 0.1
"""Fraction of the files that ``missing="few"`` leaves out."""


@dataclass(frozen=True)
class SimulationConfig:
    """Settings of a simulated repository.

    All settings are plain values, so that they can be in a configuration file. Invalid values raise
    `~lsstcutouts.errors.ConfigurationError`.

    Attributes
    ----------
    release
        Release whose file format, skymap and names are used: ``"dp2"`` (`CellCoadd`) or ``"dp1"`` (`ExposureF`).
    cells
        Inner cells along a side of a patch, or ``(y, x)``. With 20, as in real skymaps, and the defaults of ``cell``,
        ``grid`` and ``pixel_scale``, the repository has the name, hash and geometry of the real skymap; other values
        define a new skymap. A DP2 file also has one border cell on each side.
    cell
        Pixels along a side of a cell, or ``(y, x)``.
    grid
        Patches along a side of the tract, or ``(y, x)``.
    pixel_scale
        Arcseconds per pixel.
    patches
        A number ``n`` for a block of ``n`` by ``n`` patches, or a list of patch ids or of ``(x, y)`` pairs.
    tract
        Tract id; the centre is that of the tract in the real ring skymap.
    bands
        One-letter bands from ``ugrizy``.
    targets
        Rows of the truth table.
    lens_fraction
        Fraction of the targets that are lenses.
    seed
        Seed of all random numbers.
    compression
        DP2 only: ``"lossy16"`` (what Rubin uses) or ``"lossless"``. DP1 files are always lossless.
    missing
        Coadds that do not exist: ``"few"``, a list of ``(patch id, band)``, or None.
    holes
        Whether the files have ``NO_DATA`` areas and empty cells.
    mask_fractions
        DP2 only: whether the files have the ``rejected`` mask fraction plane.
    noise_realizations
        DP2 only: number of noise planes in a file.
    dataset_type
        Dataset type of the coadds, such as ``"deepCoadd_calexp"`` or ``"template_coadd"``.
    """

    release: Literal["dp2", "dp1"] = "dp2"
    cells: int | Sequence[int] = 10
    cell: int | Sequence[int] = 150
    grid: int | Sequence[int] = 10
    pixel_scale: float = 0.2
    patches: int | Sequence[int] | Sequence[Sequence[int]] = 2
    tract: int = 5063
    bands: str | Sequence[str] = KNOWN_BANDS
    targets: int = 2400
    lens_fraction: float = 0.45
    seed: int = 0
    compression: Literal["lossy16", "lossless"] = "lossy16"
    missing: str | Sequence[tuple[int, str]] | None = "few"
    holes: bool = True
    mask_fractions: bool = False
    noise_realizations: int = 0
    dataset_type: str = "deep_coadd"

    def __post_init__(self) -> None:
        _one_of("release", self.release, ("dp2", "dp1"))
        _one_of("compression", self.compression, ("lossy16", "lossless"))
        _whole("tract", self.tract, 0, TRACT_COUNT - 1)
        _whole("targets", self.targets, 1)
        _whole("seed", self.seed, 0)
        _whole("noise_realizations", self.noise_realizations, 0)
        if not (isinstance(self.dataset_type, str) and self.dataset_type.isidentifier()):
            raise ConfigurationError(
                f"dataset_type={self.dataset_type!r} must be a name of letters, digits and underscores"
            )
        if not (isinstance(self.pixel_scale, int | float) and 0.01 <= self.pixel_scale <= 10.0):
            raise ConfigurationError(f"pixel_scale={self.pixel_scale!r} must be between 0.01 and 10 arcsec")
        if not 0.0 <= self.lens_fraction <= 1.0:
            raise ConfigurationError(f"lens_fraction={self.lens_fraction!r} must be between 0 and 1")
        # Compute each derived value once, so that the constructor raises the errors.
        _ = self.cell_grid, self.cell_shape, self.band_names, self.patch_ids, self.missing_files

    @property
    def cell_grid(self) -> YX[int]:
        """Inner cells per patch, ``(y, x)``."""
        return _pair("cells", self.cells, 1)

    @property
    def cell_shape(self) -> YX[int]:
        """Pixels per cell, ``(y, x)``."""
        return _pair("cell", self.cell, SMALLEST_CELL)

    @property
    def patch_grid(self) -> YX[int]:
        """Patches per tract, ``(y, x)``."""
        return _pair("grid", self.grid, 1)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Bands, in the order given."""
        names = tuple(self.bands)
        if not names or len(set(names)) != len(names) or not set(names) <= set(KNOWN_BANDS):
            raise ConfigurationError(f"bands={self.bands!r} must be different letters from {KNOWN_BANDS!r}")
        return names

    @property
    def patch_ids(self) -> tuple[int, ...]:
        """Patch ids, in ascending order."""
        grid = self.patch_grid
        if _is_whole(self.patches):
            indices: Iterable[YX[int]] = _block(int(str(self.patches)), grid)
        else:
            indices = [_patch_index(item, grid) for item in _sequence("patches", self.patches)]
        ids = {_patch_id(index, grid) for index in indices}
        if not ids:
            raise ConfigurationError("patches is empty; give a number, patch ids, or (x, y) pairs")
        return tuple(sorted(ids))

    @property
    def missing_files(self) -> frozenset[tuple[int, str]]:
        """``(patch id, band)`` of the missing coadds."""
        if self.missing is None:
            return frozenset()
        if isinstance(self.missing, str):
            _one_of("missing", self.missing, ("few",))
            return self._few_missing()
        return frozenset(self._missing_file(item) for item in _sequence("missing", self.missing))

    @property
    def is_full_size(self) -> bool:
        """Whether geometry, name and hash are those of the real skymap."""
        return (self.cell_grid, self.cell_shape, self.patch_grid, self.pixel_scale) == FULL_SIZE

    def _missing_file(self, item: Any) -> tuple[int, str]:
        pair = _sequence("missing", item)
        if len(pair) == 2 and pair[1] in self.band_names:
            return _patch_id(_patch_index(pair[0], self.patch_grid), self.patch_grid), pair[1]
        raise ConfigurationError(f"missing={item!r} must be a pair of a patch id and one of {self.band_names}")

    def _few_missing(self) -> frozenset[tuple[int, str]]:
        """Return a few missing coadds in different patches, in the bands u, z and y if present.

        With a single patch none is missing, as this would remove the whole band.
        """
        if len(self.patch_ids) < 2:
            return frozenset()
        patches, bands = self.patch_ids, self.band_names
        if len(bands) < 2:
            return frozenset()
        rng = np.random.default_rng([self.seed, 1])
        count = min(len(patches), max(1, math.floor(FEW_MISSING * len(patches) * len(bands))))
        bands = tuple(band for band in bands if band in "uzy") or bands
        chosen = rng.permutation(len(patches))[:count]
        return frozenset((patches[i], bands[rng.integers(len(bands))]) for i in chosen)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole(name: str, value: object, low: int, high: int | None = None) -> None:
    inside = _is_whole(value) and low <= int(str(value)) and (high is None or int(str(value)) <= high)
    if not inside:
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigurationError(f"{name}={value!r} must be an integer {limits}")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r} must be one of {', '.join(choices)}")


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{name}={value!r} must be a list")
    return value


def _pair(name: str, value: Any, low: int) -> YX[int]:
    both = (value, value) if _is_whole(value) else tuple(_sequence(name, value))
    if len(both) != 2:
        raise ConfigurationError(f"{name}={value!r} must be an integer or a (y, x) pair")
    for one in both:
        _whole(name, one, low)
    return YX(int(both[0]), int(both[1]))


def _block(side: int, grid: YX[int]) -> list[YX[int]]:
    """Return the ``side`` by ``side`` block of patches that contains patches 14, 15, 24 and 25 of real tracts.

    Rubin's notebooks print pixel positions of these patches.
    """
    if not 1 <= side <= min(grid):
        raise ConfigurationError(f"patches={side} does not fit into a tract of {grid.y} x {grid.x} patches")
    y0, x0 = min(1, grid.y - side), min(4, grid.x - side)
    return [YX(y0 + j, x0 + i) for j in range(side) for i in range(side)]


def _patch_index(item: Any, grid: YX[int]) -> YX[int]:
    if _is_whole(item):
        _whole("patch id", item, 0, grid.y * grid.x - 1)
        return YX(*divmod(int(item), grid.x))
    pair = _sequence("patches", item)
    if len(pair) != 2:
        raise ConfigurationError(f"patch {item!r} must be an id or an (x, y) pair")
    _whole("patch x", pair[0], 0, grid.x - 1)
    _whole("patch y", pair[1], 0, grid.y - 1)
    return YX(int(pair[1]), int(pair[0]))


def _patch_id(index: YX[int], grid: YX[int]) -> int:
    return index.y * grid.x + index.x
