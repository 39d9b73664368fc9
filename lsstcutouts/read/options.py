"""What a batch holds, and what becomes of bands, pixels and files that are missing or bad."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from ..errors import ConfigurationError
from ..sky.geometry import YX
from .quality import QualityPolicy

__all__ = ["PLANES", "ReadOptions"]

PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Planes that a batch can hold: ``(N, B, Y, X)`` each, the PSF ``(N, B, y, x)``."""

_CHOICES = {
    "missing_band": ("zero", "nan", "skip", "raise"),
    "on_read_error": ("raise", "mask", "skip"),
    "flux_unit": ("nJy", "native"),
}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What to read, and the policies. Wrong values raise `~lsstcutouts.errors.ConfigurationError`.

    Attributes
    ----------
    planes
        Any of `PLANES`; only what they need is read.
    mask_planes
        Names for ``mask``, in DP1's or DP2's spelling: bit ``i`` of the result is the ``i``-th name, in every file.
    missing_band
        What becomes of a band that no file covers: its channel is ``"zero"`` or ``"nan"``, the target is left out
        (``"skip"``), or `~lsstcutouts.errors.MissingBandError` (``"raise"``).
    min_bands, required_bands
        A target with fewer bands, or without one of these, is left out and listed.
    fill
        What stands where the image has no value (covered by no file, lost, or not finite): 0 or NaN; ``"noise"``
        draws every pixel that is not valid from the variance, the same in each run with the same ``seed``.
    quality
        Checks of the pixels; None for none.
    on_read_error
        What a file that cannot be read does: ``"raise"``; ``"mask"`` makes the pixels that it holds invalid;
        ``"skip"`` leaves the target out. The last two list the file and its cause.
    normalise_psf
        Whether each PSF kernel is divided by its sum.
    flux_unit
        ``"nJy"``, or ``"native"`` for the file's own values.
    seed
        Of the noise.
    columns
        Catalog columns of the plan that travel with the targets; None for all of them.
    """

    planes: tuple[str, ...] = ("image",)
    mask_planes: tuple[str, ...] = ()
    missing_band: Literal["zero", "nan", "skip", "raise"] = "zero"
    min_bands: int = 0
    required_bands: tuple[str, ...] = ()
    fill: float | Literal["noise"] = 0.0
    quality: QualityPolicy | None = None
    on_read_error: Literal["raise", "mask", "skip"] = "raise"
    normalise_psf: bool = False
    flux_unit: Literal["nJy", "native"] = "nJy"
    seed: int = 0
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.mask_planes, str):
            raise ConfigurationError(f"mask_planes must be a list of different names, got {self.mask_planes!r}")
        for name in ("planes", "mask_planes", "required_bands"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) and name == "planes" else tuple(value))
        _check_planes(self.planes, self.mask_planes)
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        object.__setattr__(self, "fill", _checked_fill(self.fill))
        if not isinstance(self.normalise_psf, bool):
            raise ConfigurationError(f"normalise_psf must be true or false, got {self.normalise_psf!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ConfigurationError(f"seed must be a whole number from 0 on, got {self.seed!r}")
        if self.quality is not None and not isinstance(self.quality, QualityPolicy):
            raise ConfigurationError(
                "quality must be a QualityPolicy (in a configuration: {_target_: lsstcutouts.QualityPolicy, "
                f"min_valid: 0.9, action: skip}}), got {self.quality!r}"
            )

    def check_size(self, size: YX[int]) -> None:
        """Raise `ConfigurationError` if a box of this size can meet no policy."""
        if self.quality is not None and 2 * self.quality.peak_margin >= min(size):
            raise ConfigurationError(
                f"peak_margin={self.quality.peak_margin} leaves nothing of a box of {size.y} x {size.x} pixels"
            )

    def check_bands(self, bands: Sequence[str]) -> None:
        """Raise `ConfigurationError` if the policies name bands that are not read, or more than there are."""
        for band in self.required_bands:
            if band not in bands:
                raise ConfigurationError(f"required_bands name {band!r}, which is not one of bands={tuple(bands)}")
        whole = isinstance(self.min_bands, int | np.integer) and not isinstance(self.min_bands, bool)
        if not whole or not 0 <= self.min_bands <= len(bands):
            raise ConfigurationError(f"min_bands={self.min_bands!r} of {len(bands)} bands")
        if self.quality is not None:
            self.quality.check_bands(bands)

    def arguments(self, *without: str) -> dict[str, Any]:
        """Return the settings as keyword arguments for another constructor."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in without}

    @property
    def mask_bits(self) -> tuple[str, ...]:
        """Mask planes behind the bits that are read: those asked for, those that are checked, and NO_DATA."""
        checked = () if self.quality is None else self.quality.mask_planes
        return (*self.mask_planes, *(name for name in checked if name not in self.mask_planes), "NO_DATA")

    @property
    def needs_valid(self) -> bool:
        """Whether the validity of every pixel has to be worked out."""
        return bool({"valid", "ivar"} & set(self.planes)) or self.fill == "noise" or self.quality is not None

    @property
    def needs_covered(self) -> bool:
        """Whether it has to be known which pixels a file holds."""
        return self.needs_valid or self.fill != 0.0

    @property
    def sources(self) -> dict[str, type[np.generic]]:
        """Planes of the files to read, and the type of their arrays."""
        needed: dict[str, type[np.generic]] = {}
        if "image" in self.planes or self.needs_valid:
            needed["image"] = np.float32
        checks_variance = self.quality is not None and self.quality.positive_variance
        if {"variance", "ivar"} & set(self.planes) or self.fill == "noise" or checks_variance:
            needed["variance"] = np.float32
        if "mask" in self.planes or self.needs_valid:
            needed["mask"] = np.int32
        return needed


def _check_planes(planes: tuple[str, ...], mask_planes: tuple[str, ...]) -> None:
    unknown = [p for p in planes if p not in PLANES]
    if unknown or not planes:
        raise ConfigurationError(f"planes must be some of {', '.join(PLANES)}, got {planes!r}")
    if ("mask" in planes) != bool(mask_planes):
        raise ConfigurationError("planes=('mask', ...) and mask_planes=(names, ...) go together; give both or neither")
    if len(mask_planes) > 30 or len(set(mask_planes)) < len(mask_planes):
        raise ConfigurationError(f"mask_planes must be at most 30 different names, got {mask_planes!r}")


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value in choices:
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
