"""Reads the JSON metadata at the end of ``lsst.images`` files: what is not in the FITS headers.

Pairs are written ``[y, x]`` in the coadds of DP2 and ``{"y": .., "x": ..}`` in later ones, cells also
``{"i": .., "j": ..}``; all three are accepted everywhere.
"""

import json
from typing import Any

import numpy as np

from ..sky.geometry import YX, Box
from ..source.byte_source import ByteSource
from .headers import BadStructureError, Hdu, UnknownFeatureError, table_column, table_dtype

__all__ = ["member", "parse_box", "parse_integer", "parse_pair", "read_tree"]

MOST_BYTES = 8 << 20
"""Size limit of the tree: those of full-size coadds have 30 kB, and parsing needs up to 25 times the memory."""

_LONGEST_ROW = 1 << 16
_FARTHEST = 1 << 40
"""Limit of pixel coordinates, cell numbers and shapes; larger numbers are errors."""

_PAIRS = (("y", "x"), ("i", "j"))


def read_tree(source: ByteSource, hdu: Hdu) -> dict[str, Any]:
    """Return the tree in the first row of the JSON table.

    Raises
    ------
    BadStructureError
        If the table does not contain bytes, or the bytes are not a JSON object.
    UnknownFeatureError
        If the tree has more than `MOST_BYTES`.
    """
    if hdu.cut:
        raise BadStructureError(hdu.cut)
    cards = hdu.cards
    width, rows = cards.integer("NAXIS1", most=_LONGEST_ROW), cards.integer("NAXIS2", least=1)
    dtype = table_dtype(cards)
    if dtype.names != ("JSON",):
        raise BadStructureError(f"the JSON table has columns {str(dtype.names)[:80]}")
    row = np.frombuffer(_bytes(source, hdu, 0, width), dtype)
    length, at = table_column(row, "JSON", "i", 2)[0].tolist()
    if length > MOST_BYTES:
        raise UnknownFeatureError(f"the JSON metadata has {length} bytes, but at most {MOST_BYTES} are read")
    if length < 0 or at < 0:
        raise BadStructureError("the JSON metadata has a negative size or offset")
    return _parse_object(_bytes(source, hdu, cards.integer("THEAP", width * rows) + at, length))


def _bytes(source: ByteSource, hdu: Hdu, at: int, length: int) -> bytes:
    """Return bytes of an HDU's data."""
    if at + length > hdu.data_size:
        raise BadStructureError(
            f"the JSON metadata should end at byte {at + length} of an HDU of {hdu.data_size} bytes"
        )
    return hdu.lead[at : at + length] if at + length <= len(hdu.lead) else source.read(hdu.data_at + at, length)


def _parse_object(text: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadStructureError(f"the JSON metadata is damaged: {error}") from error
    if not isinstance(tree, dict):
        raise BadStructureError(f"the JSON metadata is a {type(tree).__name__}, not an object")
    return tree


def member(tree: dict[str, Any], path: str, *names: str) -> Any:
    """Return the value at ``names`` in a tree that messages call ``path``.

    Raises
    ------
    BadStructureError
        If a key is missing or a parent is not an object.
    """
    value: Any = tree
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise BadStructureError(f"the JSON metadata has no {path}.{name}")
        value, path = value[name], f"{path}.{name}"
    return value


def parse_integer(value: Any, path: str, *, least: int = -_FARTHEST, most: int = _FARTHEST) -> int:
    """Return an integer from ``least`` to ``most``, or raise `BadStructureError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadStructureError(
            f"{path} in the JSON metadata is {_abbreviated(value)}, not an integer from {least} to {most}"
        )
    return value


def parse_pair(value: Any, path: str) -> YX[Any]:
    """Return a ``(y, x)`` pair in any notation, or raise `BadStructureError`."""
    if isinstance(value, list) and len(value) == 2:
        return YX(*value)
    if isinstance(value, dict):
        for first, second in _PAIRS:
            if value.keys() == {first, second}:
                return YX(value[first], value[second])
    raise BadStructureError(f"{path} in the JSON metadata is {_abbreviated(value)}, not a (y, x) pair")


def parse_box(value: Any, path: str) -> Box:
    """Return a box of pixels, at least one, or raise `BadStructureError`."""
    y, x = parse_pair(value, path)
    found = Box(*_interval(y, f"{path}.y"), *_interval(x, f"{path}.x"))
    if found.is_empty:
        raise BadStructureError(f"{path} in the JSON metadata is empty: {found}")
    return found


def _interval(value: Any, path: str) -> tuple[int, int]:
    if not isinstance(value, dict):
        raise BadStructureError(f"{path} in the JSON metadata is {_abbreviated(value)}, not an interval")
    return parse_integer(member(value, path, "start"), f"{path}.start"), parse_integer(
        member(value, path, "stop"), f"{path}.stop"
    )


def _abbreviated(value: Any) -> str:
    """Return a short representation of a value for messages."""
    if isinstance(value, dict | list | str) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict | list):
        return f"{type(value).__name__} {sorted(map(str, value))[:8]}"[:80]
    return repr(value)[:40]
