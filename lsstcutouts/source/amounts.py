"""Amounts of bytes and time as people write and read them."""

import re

from ..errors import ConfigurationError

__all__ = ["parse_bytes", "shown_bytes", "shown_seconds"]

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?)?b?(?:ytes)?\s*", re.IGNORECASE)


def parse_bytes(amount: str) -> int:
    """Return the bytes that a text such as ``"2 GB"`` or ``"500 MiB"`` stands for.

    Raises
    ------
    ConfigurationError
        The text is not an amount of memory.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise ConfigurationError(f"{amount!r} is not an amount of memory; use for example '2 GB' or '500 MiB'")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


def shown_bytes(nbytes: int) -> str:
    """Return bytes for people: ``55 MB``, ``1.2 GB``."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def shown_seconds(seconds: float) -> str:
    """Return a time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
