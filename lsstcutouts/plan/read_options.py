"""How pixels are read: which files, and what happens to bands, pixels and files that are missing or bad."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigurationError
from ..sky.geometry import YX
from .grid import Grid
from .quality import QualityPolicy

__all__ = ["TRACTS", "ReadOptions", "check_choice"]

TRACTS = ("primary", "strict", "best")
"""Choices of the tract where tracts overlap, as in `ReadOptions`."""

_CHOICES = {
    "missing_band": ("zero", "nan", "skip", "raise"),
    "on_read_error": ("raise", "mask", "skip"),
    "flux_unit": ("nJy", "native"),
    "tract": TRACTS,
}


@dataclass(frozen=True)
class ReadOptions:
    """How pixels are read, and the policies for what is missing or bad.

    Parameters
    ----------
    mask_planes
        Names of the mask planes for the plane ``"mask"``, in the spelling of DP1 or DP2 (``"SAT"`` or ``"SATURATED"``).
        Bit ``i`` of the result is the ``i``-th name, in every file.
    missing_band
        What happens to a band that no file covers: its channel is ``"zero"`` or ``"nan"`` (``band_present`` is False);
        ``"skip"`` leaves the target out; ``"raise"`` raises `~lsstcutouts.errors.MissingBandError`.
    min_bands
        A target with fewer bands is left out and listed in the report.
    required_bands
        A target without one of these bands is left out and listed in the report.
    fill
        Value of pixels without a value (covered by no file, lost, or not finite): 0 or NaN. ``"noise"`` draws every
        pixel that is not valid from the variance; the same ``seed`` gives the same noise.
    quality
        Checks of the pixels; None for no checks.
    on_read_error
        What happens if a file cannot be read: ``"raise"``; ``"mask"`` makes the pixels of this file invalid;
        ``"skip"`` leaves the target out. The last two list the file and the cause in the report.
    normalise_psf
        Whether each PSF kernel is divided by its sum.
    flux_unit
        ``"nJy"``, or ``"native"`` for the values as they are in the file.
    tract
        Which tract a target is cut from where tracts overlap. ``"primary"``: the tract that the skymap assigns to the
        position; if the coadds of that tract cover no pixel of the box in any band, the best other tract.
        ``"strict"``: only the assigned tract. ``"best"``: the tract whose files cover most pixels of the box, summed
        over the bands; if several are equal, the assigned tract, then the lowest number. Used when the plan is made.
    skymap
        Name of the skymap; by default the skymap of the coadds. Used when the plan is made.
    grid
        Your own pixel grid: north up, another pixel scale, or a given WCS; None for the pixels of the tract. A mapping
        with the arguments of `Grid` does as well. Used when the plan is made.

    Raises
    ------
    ConfigurationError
        If a value is not allowed.
    """

    mask_planes: Sequence[str] = ()
    missing_band: Literal["zero", "nan", "skip", "raise"] = "zero"
    min_bands: int = 0
    required_bands: Sequence[str] = ()
    fill: float | Literal["noise"] = 0.0
    quality: QualityPolicy | None = None
    on_read_error: Literal["raise", "mask", "skip"] = "raise"
    normalise_psf: bool = False
    flux_unit: Literal["nJy", "native"] = "nJy"
    tract: Literal["primary", "strict", "best"] = "primary"
    skymap: str | None = None
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if isinstance(self.mask_planes, str):
            raise ConfigurationError(f"mask_planes must be a list of different names, got {self.mask_planes!r}")
        for name in ("mask_planes", "required_bands"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.mask_planes) > 30 or len(set(self.mask_planes)) < len(self.mask_planes):
            raise ConfigurationError(f"mask_planes must be at most 30 different names, got {self.mask_planes!r}")
        if self.missing_band != self.missing_band:  # hydra and YAML read nan as a number
            object.__setattr__(self, "missing_band", "nan")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        object.__setattr__(self, "fill", _checked_fill(self.fill))
        if not isinstance(self.normalise_psf, bool):
            raise ConfigurationError(f"normalise_psf must be true or false, got {self.normalise_psf!r}")
        if self.quality is not None and not isinstance(self.quality, QualityPolicy):
            raise ConfigurationError(
                "quality must be a QualityPolicy (in a configuration: {_target_: lsstcutouts.QualityPolicy, "
                f"min_valid: 0.9, action: skip}}), got {self.quality!r}"
            )

        object.__setattr__(self, "grid", Grid.of(self.grid))

    def check_size(self, size: YX[int]) -> None:
        """Raise `ConfigurationError` if a box of ``size`` pixels can never meet the quality policy."""
        if self.quality is not None and 2 * self.quality.peak_margin >= min(size):
            raise ConfigurationError(
                f"peak_margin={self.quality.peak_margin} is too large for a box of {size.y} x {size.x} pixels; use less than half its side"
            )

    def check_bands(self, bands: Sequence[str]) -> None:
        """Raise `ConfigurationError` if the policies name bands that are not read, or more bands than are read."""
        for band in self.required_bands:
            if band not in bands:
                raise ConfigurationError(
                    f"required_bands has {band!r}, which is not one of the bands {', '.join(bands)}"
                )
        whole = isinstance(self.min_bands, int | np.integer) and not isinstance(self.min_bands, bool)
        if not whole or not 0 <= self.min_bands <= len(bands):
            raise ConfigurationError(
                f"min_bands must be an integer from 0 to {len(bands)}, the number of bands, got {self.min_bands!r}"
            )
        if self.quality is not None:
            self.quality.check_bands(bands)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise `ConfigurationError` if a value is not one of the choices; the message names the closest one."""
    if isinstance(value, str) and value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _checked_fill(fill: object) -> float | str:
    if fill == "noise":
        return "noise"
    value = math.nan if fill == "nan" else fill
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or math.isnan(value)):
        raise ConfigurationError(f"fill must be 0, nan or 'noise', got {fill!r}")
    return float(value)
