"""Names and bits of mask planes, as the headers of masks give them."""

from .headers import BadStructureError, Cards

__all__ = ["first_bit", "mask_bit", "mask_keys"]

_PLANES_PER_HDU = 31
"""Mask planes that ``lsst.images`` packs into one HDU of 32-bit signed integers (``MaskSchema.split``)."""


def first_bit(plane: str) -> int:
    """Return the number of the first bit of ``mask``, ``mask2``, ..., counted over all of them."""
    return (int(plane.removeprefix("mask") or 1) - 1) * _PLANES_PER_HDU


def mask_keys(cards: Cards) -> dict[str, str]:
    """Return the keyword that gives the bit of each mask plane of an HDU, by name.

    ``MSKNnnnn`` (name) and ``MSKMnnnn`` (value) cards of ``lsst.images``; where there are none, the ``MP_`` cards of
    afw. Files that were converted can have both, and only the first are kept in step with the pixels.
    """
    numbers = [key[4:] for key in cards if key.startswith("MSKN") and key[4:].isdecimal()]
    if numbers:
        return {cards.string(f"MSKN{number}"): f"MSKM{number}" for number in numbers}
    return {key[3:]: key for key in cards if key.startswith("MP_")}


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
