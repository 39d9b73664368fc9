"""Names and bits of mask planes, as the headers of masks give them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from .headers import BadStructureError, Cards, Hdu
from .structure import FileStructure

__all__ = ["first_bit", "mask_bit", "mask_hdus", "mask_keys"]

_PLANES_PER_HDU = 31
"""Mask planes that ``lsst.images`` packs into one HDU of 32-bit signed integers (``MaskSchema.split``)."""


def first_bit(plane: str) -> int:
    """Return the number of the first bit of ``mask``, ``mask2``, ..., counted over all of them."""
    return (int(plane.removeprefix("mask") or 1) - 1) * _PLANES_PER_HDU


def mask_hdus(structure: FileStructure, find: Callable[[str], Hdu | None]) -> dict[str, Hdu]:
    """Return the HDUs that hold the mask of a file, by plane: ``mask``, ``mask2``, ...

    Parameters
    ----------
    structure
        Of the file.
    find
        Returns the HDU of a plane.

    Raises
    ------
    BadStructureError
        The file is cut off after an HDU of as many mask planes as one holds: nothing tells whether another followed.
    """
    found: dict[str, Hdu] = {}
    hdu = find("mask")
    while hdu is not None and not hdu.is_empty:
        found[f"mask{len(found) + 1}" if found else "mask"] = last = replace(hdu, lead=b"")
        # Only lsst.images writes several; in afw files the search would read every header up to the end of the file.
        hdu = find(f"mask{len(found) + 1}") if "MSKN0000" in last.cards else None
        is_full = f"MSKN{_PLANES_PER_HDU - 1:04}" in last.cards
        if hdu is None and is_full and (why := structure.cut_off()) and structure.at(last.index + 1) is None:
            raise BadStructureError(f"the mask may continue after the truncation; the file is {why}")
    return found


def mask_keys(hdus: Mapping[str, Hdu]) -> dict[str, tuple[str, Cards, str]]:
    """Return the plane, its keywords, and the one of them that gives the bit, of each mask plane by name.

    ``MSKNnnnn`` (name) and ``MSKMnnnn`` (value) cards of ``lsst.images``; where there are none, the ``MP_`` cards of
    afw. Files that were converted can have both, and only the first are kept in step with the pixels. The bits are for
    `mask_bit` to read when one is asked for: that of another plane may be damaged.
    """
    keys: dict[str, tuple[str, Cards, str]] = {}
    for plane, hdu in hdus.items():
        numbers = [key[4:] for key in hdu.cards if key.startswith("MSKN") and key[4:].isdecimal()]
        found = {hdu.cards.string(f"MSKN{number}"): f"MSKM{number}" for number in numbers}
        found = found if numbers else {key[3:]: key for key in hdu.cards if key.startswith("MP_")}
        keys |= {name: (plane, hdu.cards, key) for name, key in found.items() if name not in keys}
    return keys


def mask_bit(cards: Cards, key: str) -> int:
    """Return the bit that a keyword of `mask_keys` gives.

    Raises
    ------
    BadStructureError
        A value that is not one bit of a 32-bit integer.
    """
    if key.startswith("MP_"):
        return cards.integer(key, most=31)
    value = cards.integer(key, 1 << min(int(key[4:]), 31), least=1, most=1 << 31)
    if value & (value - 1):
        raise BadStructureError(f"header keyword {key} is {value}, not one bit")
    return value.bit_length() - 1
