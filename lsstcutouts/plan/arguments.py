"""Parses and checks the bands and the size of cutouts."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units

from ..errors import ConfigurationError
from ..sky.geometry import YX
from .cutout_plan import CutoutPlan

__all__ = ["AngularSize", "SizeLike", "has_size", "parse_bands", "parse_size", "shown_size"]

_DECIMALS = 6
"""Decimals to which a size in pixels is rounded first; the pixel scale of a tract, from its corners, is accurate to 1e-9."""


@dataclass(frozen=True, slots=True)
class AngularSize:
    """Height and width of a box on the sky.

    Attributes
    ----------
    y, x
        Height and width in arcseconds, along y and x of the tract.
    """

    y: float
    x: float

    def pixels(self, scale: YX[float]) -> YX[int]:
        """Return the size in pixels of ``scale`` arcseconds, rounded to the nearest integer (halves up), at least 1."""
        return YX(y=_nearest(self.y / scale.y), x=_nearest(self.x / scale.x))

    def __str__(self) -> str:
        return f"{self.y:g} x {self.x:g} arcsec"


type SizeLike = int | str | AngularSize | units.Quantity | Sequence[int | str | units.Quantity]
"""Pixels, an angle, or ``(height, width)`` of either."""


def shown_size(size: YX[int] | AngularSize) -> str:
    """Return height and width for people: ``64 x 64 pixels``, ``12 x 12 arcsec``."""
    return f"{size.y} x {size.x} pixels" if isinstance(size, YX) else str(size)


def _nearest(pixels: float) -> int:
    return max(1, math.floor(round(pixels, _DECIMALS) + 0.5))


def parse_bands(bands: str | Iterable[str]) -> tuple[str, ...]:
    """Return band names from a string of one-letter bands, or from names."""
    if isinstance(bands, str) and set(bands) & set(", "):
        raise ConfigurationError(
            f"bands={bands!r}: a string has one letter per band and no separators, such as 'gri'; write longer names as a list"
        )
    if isinstance(bands, str) and not bands.isalpha() and len(bands) > 1:
        raise ConfigurationError(
            f"bands={bands!r}: a string has one letter per band, such as 'gri'; use the band names of the Butler (g, not the"
            f" filter LSST_g), and write a longer name as a list: [{bands}]"
        )
    if not isinstance(bands, Iterable):
        raise ConfigurationError(f"bands must be a string such as 'gri' or a list of names, got {bands!r}")
    names = tuple(bands)
    if not names or any(not isinstance(b, str) or not b for b in names):
        raise ConfigurationError(f"bands must be a string such as 'gri' or a list of names, got {bands!r}")
    twice = sorted({b for b in names if names.count(b) > 1})
    if twice:
        raise ConfigurationError(f"bands={bands!r} contain {', '.join(twice)} more than once; remove the duplicates")
    return names


def parse_size(size: SizeLike) -> YX[int] | AngularSize:
    """Return the size of a box from a number of pixels or an angle, or from a pair ``(height, width)`` of these.

    Parameters
    ----------
    size
        An integer number of pixels; a string with a number and a unit, such as ``"12 arcsec"``, ``"0.2 arcmin"`` or
        ``"64 px"``; an astropy ``Quantity``; or two of these, both pixels or both angles.

    Returns
    -------
    YX or AngularSize
        Pixels, or an angle; the `Planner` converts angles to pixels with the pixel scale of the tract.

    Raises
    ------
    ConfigurationError
        If it is none of these, or not positive and finite.
    """
    if isinstance(size, AngularSize):
        parts: tuple[Any, ...] = (size.y * units.arcsec, size.x * units.arcsec)
    elif isinstance(size, int | float | str | np.number) or (isinstance(size, units.Quantity) and size.isscalar):
        parts = (size, size)
    elif isinstance(size, Sequence | units.Quantity) and len(size) == 2:
        parts = tuple(size)
    else:
        raise ConfigurationError(
            f"size must be an integer number of pixels, an angle such as '12 arcsec', or (height, width), got {size!r}"
        )
    pair = [_pixels_or_arcsec(part, size) for part in parts]
    if all(isinstance(n, int) for n in pair):
        return YX(y=int(pair[0]), x=int(pair[1]))
    if any(isinstance(n, int) for n in pair):
        raise ConfigurationError(
            f"size={size!r} has a number of pixels and an angle; give both in pixels or both as angles"
        )
    return AngularSize(y=pair[0], x=pair[1])


def has_size(plan: CutoutPlan, size: YX[int] | AngularSize) -> bool:
    """Return whether the cutouts of a plan have this size."""
    if isinstance(size, AngularSize):
        scales = (
            [one.pixel_scale for one in plan.projections.values()] if plan.grid is None else [plan.grid.pixel_scale]
        )
        return all(size.pixels(scale) == plan.size for scale in scales)
    return plan.size == size


def _pixels_or_arcsec(part: object, size: object) -> int | float:
    """Return one side of a box: an int in pixels, or a float in arcseconds."""
    if isinstance(part, str | units.Quantity):
        number, angle = _measured(part, size)
    elif isinstance(part, int | np.integer) and not isinstance(part, bool):
        number, angle = float(part), False
    else:
        raise ConfigurationError(
            f"size must be an integer number of pixels, or an angle such as '12 arcsec', got {size!r}"
        )
    if not (math.isfinite(number) and number > 0):
        raise ConfigurationError(f"size must be positive and finite, got {size!r}")
    if not angle and number != round(number):
        raise ConfigurationError(f"size must be an integer number of pixels, at least 1, got {size!r}")
    return number if angle else int(number)


def _measured(part: Any, size: object) -> tuple[float, bool]:
    """Return the value of a quantity in pixels or arcseconds, and whether it is an angle."""
    # The name of this unit in astropy is "pix".
    text = re.sub(r"(?<![a-z])px$", "pix", part.strip()) if isinstance(part, str) else part
    try:
        quantity = units.Quantity(text)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"size={size!r} cannot be parsed; give an integer number of pixels, or an angle such as '12 arcsec'"
        ) from error
    if quantity.isscalar and quantity.unit.is_equivalent(units.pix):
        return float(quantity.to_value(units.pix)), False
    if quantity.isscalar and quantity.unit.is_equivalent(units.arcsec):
        return float(quantity.to_value(units.arcsec)), True
    unit = f"the unit {quantity.unit.to_string()!r}" if quantity.unit.to_string() else "no unit"
    raise ConfigurationError(
        f"size={size!r} has {unit}; give an integer number of pixels, or an angle such as '12 arcsec'"
    )
