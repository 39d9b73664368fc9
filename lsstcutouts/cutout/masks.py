"""Mask planes by name: their bits differ from file to file, those of a batch do not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlaneError
from ..fits import Coadd

__all__ = ["bits_of", "renumbered"]

_SPELLINGS = {"INTRP": "INTERPOLATED", "CR": "COSMIC_RAY", "SAT": "SATURATED", "EDGE": "DETECTION_EDGE"}
_OTHER_SPELLING = {**_SPELLINGS, **{new: old for old, new in _SPELLINGS.items()}}
"""What DP1 and DP2 call the same mask plane (``lsst.images``, ``get_legacy_deep_coadd_mask_planes``)."""

_KNOWN_PLANES = {
    *_OTHER_SPELLING,
    *("BAD", "CLIPPED", "CROSSTALK", "DETECTED", "DETECTED_NEGATIVE", "INEXACT_PSF", "ITL_DIP", "NOT_DEBLENDED"),
    *("NO_DATA", "REJECTED", "SENSOR_EDGE", "STREAK", "SUSPECT", "UNMASKEDNAN", "VIGNETTED"),
}
"""Mask planes of DP1 and DP2: one of these may be absent from a file, another name is a mistake."""


def bits_of(coadd: Coadd, wanted: Sequence[str]) -> list[int | None]:
    """Return the bit of each mask plane in a file; None for a plane that other files have and this one lacks.

    Raises
    ------
    PlaneError
        For a name that neither this file nor any release has.
    """
    have = coadd.mask_planes
    found: list[int | None] = []
    for name in wanted:
        spelling = next((n for n in (name, _OTHER_SPELLING.get(name, name)) if n in have), None)
        if spelling is None and name not in _KNOWN_PLANES:
            raise PlaneError(f"{coadd.uri}: no mask plane {name!r}; there is: {', '.join(sorted(have))}")
        found.append(None if spelling is None else have[spelling])
    return found


def renumbered(mask: NDArray[Any], bits: Sequence[int | None]) -> NDArray[np.int32]:
    """Return a mask in which bit ``i`` is the file's bit ``bits[i]``; zero where that is None."""
    result = np.zeros(mask.shape, np.int32)
    for i, bit in enumerate(bits):
        if bit is not None:
            result |= ((mask >> bit) & 1) << i
    return result
