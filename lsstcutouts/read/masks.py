"""Mask planes by name: the bit of a plane differs between files, but is the same in every batch."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError
from ..fits.coadd import Coadd

__all__ = ["mask_hdus", "places_of", "renumbered", "spellings"]

_SPELLINGS = {"INTRP": "INTERPOLATED", "CR": "COSMIC_RAY", "SAT": "SATURATED", "EDGE": "DETECTION_EDGE"}
_OTHER_SPELLING = {**_SPELLINGS, **{new: old for old, new in _SPELLINGS.items()}}
"""What DP1 and DP2 call the same mask plane (``lsst.images``, ``get_legacy_deep_coadd_mask_planes``)."""

_KNOWN_PLANES = {
    *_OTHER_SPELLING,
    *("BAD", "CLIPPED", "CROSSTALK", "DETECTED", "DETECTED_NEGATIVE", "INEXACT_PSF", "ITL_DIP", "NOT_DEBLENDED"),
    *("NO_DATA", "REJECTED", "SENSOR_EDGE", "STREAK", "SUSPECT", "UNMASKEDNAN", "VIGNETTED"),
}
"""Mask planes of DP1 and DP2: one of these may be absent from a file, another name is a mistake."""


type Place = tuple[str, int] | None


def spellings(name: str) -> tuple[str, str]:
    """Return the names that DP1 and DP2 give to a mask plane, the given one first."""
    return name, _OTHER_SPELLING.get(name, name)


def places_of(coadd: Coadd, wanted: Sequence[str]) -> list[Place]:
    """Return HDU and bit of each mask plane in a file; None for a known plane that is missing from this file.

    Raises
    ------
    PlaneError
        For a name that neither this file nor any release has.
    """
    have = coadd.mask_names
    found: list[Place] = []
    for name in wanted:
        spelling = next((n for n in spellings(name) if n in have), None)
        if spelling is None and name not in _KNOWN_PLANES:
            close = difflib.get_close_matches(name.upper(), [*have, *sorted(_KNOWN_PLANES)], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PlaneError(f"{coadd.uri}: no mask plane {name!r}{hint}; available: {', '.join(sorted(have))}")
        found.append(None if spelling is None else coadd.mask_location(spelling))
    return found


def mask_hdus(places: Sequence[Place]) -> list[str]:
    """Return the planes to read for these mask planes; always the first one, even if none of its planes is wanted."""
    return sorted({"mask", *(place[0] for place in places if place is not None)})


def renumbered(masks: Mapping[str, NDArray[Any]], places: Sequence[Place]) -> NDArray[np.int32]:
    """Return an int32 mask, ``(Y, X)``, in which bit ``i`` is the file's bit at ``places[i]``; 0 if that is None."""
    result = np.zeros(masks["mask"].shape, np.int32)
    for i, place in enumerate(places):
        if place is not None:
            plane, bit = place
            result |= ((masks[plane] >> bit) & 1) << i
    return result
