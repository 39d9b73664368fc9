"""What people say about cutouts, checked: bands and size."""

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

__all__ = ["AngularSize", "SizeLike", "has_size", "parse_bands", "parse_size"]

_DECIMALS = 6
"""Digits of a size in pixels that count: a tract's pixel scale, found from its corners, is good to 1e-9."""


@dataclass(frozen=True, slots=True)
class AngularSize:
    """Height and width of a box on the sky.

    Attributes
    ----------
    y, x
        Arcseconds along the rows and columns of the tract.
    """

    y: float
    x: float

    def pixels(self, scale: YX[float]) -> YX[int]:
        """Return the size in whole pixels of ``scale`` arcseconds: the nearest number, halves up, at least 1."""
        return YX(y=_nearest(self.y / scale.y), x=_nearest(self.x / scale.x))

    def __str__(self) -> str:
        return f"{self.y:g} x {self.x:g} arcsec"


type SizeLike = int | str | AngularSize | units.Quantity | Sequence[int | str | units.Quantity]
"""Pixels, an angle, or ``(height, width)`` of either."""


def _nearest(pixels: float) -> int:
    return max(1, math.floor(round(pixels, _DECIMALS) + 0.5))


def parse_bands(bands: str | Iterable[str]) -> tuple[str, ...]:
    """Return band names from a string of one-letter bands, or from names."""
    if isinstance(bands, str) and set(bands) & set(", "):
        raise ConfigurationError(f"bands as one string have one letter each, such as 'gri'; got {bands!r}")
    if isinstance(bands, str) and not bands.isalpha() and len(bands) > 1:
        raise ConfigurationError(
            f"bands={bands!r}: a string has one letter for each band, such as 'gri'; bands are named as in the Butler (g, not"
            f" the filter LSST_g), and a longer name is given as a list: [{bands}]"
        )
    if not isinstance(bands, Iterable):
        raise ConfigurationError(f"bands must be a string such as 'gri' or a list of names, got {bands!r}")
    names = tuple(bands)
    if not names or any(not isinstance(b, str) or not b for b in names):
        raise ConfigurationError(f"bands must be a string such as 'gri' or a list of names, got {bands!r}")
    twice = sorted({b for b in names if names.count(b) > 1})
    if twice:
        raise ConfigurationError(f"bands name {', '.join(twice)} more than once: {bands!r}")
    return names


def parse_size(size: SizeLike) -> YX[int] | AngularSize:
    """Return the size of a box from pixels or an angle, or from a pair ``(height, width)`` of either.

    Parameters
    ----------
    size
        A whole number of pixels; text with a number and a unit, such as ``"12 arcsec"``, ``"0.2 arcmin"`` or
        ``"64 px"``; an astropy ``Quantity``; or two of these, both pixels or both angles.

    Returns
    -------
    YX or AngularSize
        Pixels as they are; an angle is turned into pixels by the `Planner`, which knows the tract's pixel scale.

    Raises
    ------
    ConfigurationError
        If it is none of these, not positive or not finite.
    """
    if isinstance(size, AngularSize):
        parts: tuple[Any, ...] = (size.y * units.arcsec, size.x * units.arcsec)
    elif _is_one(size):
        parts = (size, size)
    elif isinstance(size, Sequence | units.Quantity) and len(size) == 2:
        parts = tuple(size)
    else:
        raise ConfigurationError(f"size must be a number of pixels, an angle or (height, width), got {size!r}")
    pair = [_pixels_or_arcsec(part, size) for part in parts]
    if all(isinstance(n, int) for n in pair):
        return YX(y=int(pair[0]), x=int(pair[1]))
    if any(isinstance(n, int) for n in pair):
        raise ConfigurationError(f"size mixes pixels and an angle: {size!r}")
    return AngularSize(y=pair[0], x=pair[1])


def has_size(plan: CutoutPlan, size: YX[int] | AngularSize) -> bool:
    """Return whether the cutouts of a plan have a size that `parse_size` gave."""
    if isinstance(size, AngularSize):
        return all(size.pixels(one.pixel_scale) == plan.size for one in plan.projections.values())
    return plan.size == size


def _is_one(size: object) -> bool:
    return isinstance(size, int | float | str | np.number) or (isinstance(size, units.Quantity) and size.isscalar)


def _pixels_or_arcsec(part: object, size: object) -> int | float:
    """Return one side of a box: an int for pixels, a float for arcseconds."""
    if isinstance(part, str | units.Quantity):
        number, angle = _measured(part, size)
    elif isinstance(part, int | np.integer) and not isinstance(part, bool):
        number, angle = float(part), False
    else:
        raise ConfigurationError(f"size must be whole pixels, or an angle such as '12 arcsec', got {size!r}")
    if not (math.isfinite(number) and number > 0):
        raise ConfigurationError(f"size must be positive and finite, got {size!r}")
    if not angle and number != round(number):
        raise ConfigurationError(f"size must be whole pixels, at least 1, got {size!r}")
    return number if angle else int(number)


def _measured(part: Any, size: object) -> tuple[float, bool]:
    """Return the value of a quantity in pixels or arcseconds, and whether it is an angle."""
    # astropy spells it "pix".
    text = re.sub(r"(?<![a-z])px$", "pix", part.strip()) if isinstance(part, str) else part
    try:
        quantity = units.Quantity(text)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"size {size!r} is not understood; give whole pixels, or text such as '12 arcsec'"
        ) from error
    if quantity.isscalar and quantity.unit.is_equivalent(units.pix):
        return float(quantity.to_value(units.pix)), False
    if quantity.isscalar and quantity.unit.is_equivalent(units.arcsec):
        return float(quantity.to_value(units.arcsec)), True
    unit = f"the unit {quantity.unit.to_string()!r}" if quantity.unit.to_string() else "no unit"
    raise ConfigurationError(
        f"size {size!r} has {unit}; give whole pixels as a number, or an angle such as '12 arcsec'"
    )
