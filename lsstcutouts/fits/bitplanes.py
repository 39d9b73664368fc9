"""Names and bits of mask planes, as the headers of masks give them."""

from .headers import BadStructureError, Cards

__all__ = ["first_bit", "mask_bits"]

_PLANES_PER_HDU = 31
"""Mask planes that ``lsst.images`` packs into one HDU of 32-bit signed integers (``MaskSchema.split``)."""


def first_bit(plane: str) -> int:
    """Return the number of the first bit of ``mask``, ``mask2``, ..., counted over all of them."""
    return (int(plane.removeprefix("mask") or 1) - 1) * _PLANES_PER_HDU


def mask_bits(cards: Cards) -> dict[str, int]:
    """Return the bit of each mask plane of an HDU by name.

    ``MSKNnnnn`` (name) and ``MSKMnnnn`` (value) cards of ``lsst.images``; where there are none, the ``MP_`` cards of
    afw. Files that were converted can have both, and only the first are kept in step with the pixels.

    Raises
    ------
    BadStructureError
        A value that is not one bit of a 32-bit integer.
    """
    names = [key for key in cards if key.startswith("MSKN") and key[4:].isdigit()]
    if names:
        return {cards.string(key): _bit(cards, key[4:]) for key in names}
    return {key[3:]: cards.integer(key, most=31) for key in cards if key.startswith("MP_")}


def _bit(cards: Cards, number: str) -> int:
    value = cards.integer(f"MSKM{number}", 1 << min(int(number), 31), least=1, most=1 << 31)
    if value & (value - 1):
        raise BadStructureError(f"header keyword MSKM{number} is {value}, not one bit")
    return value.bit_length() - 1
