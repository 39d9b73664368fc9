"""One target of a gallery: what every form of the gallery draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entry", "Panel"]


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a target: a colour composite, or one band.

    Attributes
    ----------
    label
        What it shows: ``"gri"`` or ``"g"``.
    image
        ``(Y, X, 3)`` uint8; the first row is the southern one.
    missing
        Bands of it without a valid pixel: the repository has no image there, or the image has no data.
    """

    label: str
    image: NDArray[np.uint8]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Entry:
    """One target of a gallery.

    Positions are pixels ``(x, y)`` of the cutout: ``(0, 0)`` is the centre of its first, south-eastern pixel.

    Attributes
    ----------
    object_id, row
        Id, and row of the catalog.
    caption
        Lines of text under the picture.
    values
        Columns of the catalog by name: numbers, booleans, strings or None; also ``ra`` and ``dec``, degrees ICRS.
    panels
        Images of one shape, ``(Y, X, 3)``.
    target
        Position of the target.
    north, east
        Unit vectors ``(x, y)`` towards north and east at the target; None without a WCS, as where no file was read.
    pixel_scale
        Arcseconds per pixel; None without a WCS.
    outlines
        Closed lines ``(n, 2)`` around the pixels of each mask plane, by its name.
    """

    object_id: int | str
    row: int
    caption: str
    values: Mapping[str, Any]
    panels: tuple[Panel, ...]
    target: tuple[float, float]
    north: tuple[float, float] | None
    east: tuple[float, float] | None
    pixel_scale: float | None
    outlines: Mapping[str, tuple[NDArray[np.float32], ...]]
