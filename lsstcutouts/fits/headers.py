"""FITS headers and table rows as plain values (FITS standard 4.0, sections 3.3, 4 and 7.3)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..source.byte_source import ByteSource

__all__ = [
    "BLOCK",
    "BadStructureError",
    "Cards",
    "GzippedFileError",
    "Hdu",
    "NoHeaderError",
    "UnknownFeatureError",
    "read_hdu",
    "table_column",
    "table_dtype",
]

BLOCK = 2880
"""FITS files are made of blocks of this many bytes."""

_CARD = 80
_END = b"END" + b" " * 77
_GZIP = b"\x1f\x8b"
_LARGEST_HEADER = 2000 * BLOCK
_LEAD = 8 * BLOCK
"""Bytes read with a header: most headers, and with DP2 the tile table after it, fit one read."""

_CARDS = re.compile(r"(.{8})= (.{0,70})|HIERARCH(.{0,72})|.{1,80}", re.DOTALL)
"""A card with a value, of a standard keyword or a longer one, or any other card."""

_STRING = re.compile(r"'((?:[^']|'')*)'")
_TFORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])")
_COLUMN_TYPES = {
    "L": "S1",
    "B": "u1",
    "I": ">i2",
    "J": ">i4",
    "K": ">i8",
    "E": ">f4",
    "D": ">f8",
    "C": ">c8",
    "M": ">c16",
    "P": "2>i4",
    "Q": "2>i8",
}

type Value = str | int | float | bool | None


class BadStructureError(ValueError):
    """Bytes that violate the FITS standard or contradict each other; becomes a `CorruptFileError` with the URI."""


class NoHeaderError(BadStructureError):
    """No FITS header where one may be: after the last HDU, or where bytes are damaged."""


class UnknownFeatureError(ValueError):
    """Valid FITS that this package does not read; becomes an `UnsupportedFormatError` with the URI."""


class GzippedFileError(UnknownFeatureError):
    """A file that is gzipped as a whole: it can be read after inflating it, but not in place."""


class Cards:
    """The keywords of one header. Values are parsed when they are asked for: few of many are.

    Bytes beyond ASCII are read as Latin-1: the standard forbids them, but a name in a comment harms no pixel. The first of repeated keywords counts, as in astropy. ``HIERARCH`` keywords are known by their own name.
    """

    __slots__ = ("_text", "_values")

    def __init__(self, header: str) -> None:
        text: dict[str, str] = {}
        for key, value, rest in _CARDS.findall(header):
            if key:
                text.setdefault(key.rstrip(), value)
            elif rest:
                name, _, after = rest.partition("=")
                text.setdefault(name.strip().upper(), after)
        self._text = text
        self._values: dict[str, Value] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._text

    def __iter__(self) -> Iterator[str]:
        return iter(self._text)

    def get(self, key: str, default: Value = None) -> Value:
        """Return the value of a keyword; None where the card is there and has no value."""
        if key not in self._values:
            if (text := self._text.get(key)) is None:
                return default
            self._values[key] = _value(text)
        return self._values[key]

    def string(self, key: str, default: str = "") -> str:
        """Return a string value without trailing blanks."""
        value = self.get(key, default)
        return value if isinstance(value, str) else default

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number.

        Raises
        ------
        BadStructureError
            The keyword is missing and there is no default, or its value is not a number.
        """
        value = self.get(key, default)
        if value is None and key in self:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadStructureError(f"header keyword {key} is {value!r}, not a number")
        # numpy takes integers beyond 64 bits for Python objects.
        return float(value) if abs(value) >= 2**63 else value

    def integer(self, key: str, default: int | None = None, *, least: int = 0, most: int = 2**62) -> int:
        """Return an integer from ``least`` to ``most``.

        Raises
        ------
        BadStructureError
            The keyword is missing and there is no default, or its value is anything else.
        """
        value = self.get(key, default)
        if type(value) is int and least <= value <= most:
            return value
        value = self.number(key, default)
        if value != int(value) or not least <= value <= most:
            raise BadStructureError(f"header keyword {key} is {value!r}, not an integer from {least} to {most}")
        return int(value)


@dataclass(frozen=True)
class Hdu:
    """One header, and where its data are.

    Attributes
    ----------
    index
        Number in the file, the primary HDU is 0.
    cards
        Its keywords.
    data_at, data_size
        First byte and number of bytes of the data, without the filling of the last block.
    lead
        The first bytes of the data, as far as they came with the header.
    cut
        Message about data beyond the end of the file; empty if the data are complete.
    """

    index: int
    cards: Cards
    data_at: int
    data_size: int
    lead: bytes
    cut: str = ""

    @property
    def end(self) -> int:
        """First byte after the data's last block."""
        return self.data_at + -(-self.data_size // BLOCK) * BLOCK

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the image's axes, x first: its own or, where it is compressed, those of what it holds."""
        prefix = "Z" if self.cards.get("ZIMAGE") is True else ""
        return tuple(
            self.cards.integer(f"{prefix}NAXIS{n}")
            for n in range(1, self.cards.integer(f"{prefix}NAXIS", 0, most=999) + 1)
        )

    @property
    def is_empty(self) -> bool:
        """Whether there are no pixels."""
        return 0 in self.axes or not self.axes


def read_hdu(source: ByteSource, at: int, index: int) -> Hdu:
    """Read the header at byte ``at``.

    Raises
    ------
    NoHeaderError
        There is no header.
    BadStructureError
        It has no end, or does not say how many bytes of data follow.
    GzippedFileError
        The file is gzipped.
    """
    raw = source.read(at, min(_LEAD, source.size - at)) if at < source.size else b""
    if at == 0 and raw.startswith(_GZIP):
        raise GzippedFileError("gzipped, and its content is gzipped again")
    if not raw.startswith((b"SIMPLE  =", b"XTENSION=")):
        raise NoHeaderError(f"no FITS header at byte {at}")
    length = _header_length(raw)
    while length is None:
        more = source.read(at + len(raw), min(len(raw), source.size - at - len(raw)))
        raw += more
        length = _header_length(raw)
        if length is None and (not more or len(raw) > _LARGEST_HEADER):
            raise BadStructureError(f"the header at byte {at} has no END")
    cards = Cards(raw[:length].rstrip().decode("latin-1"))
    data_at, data_size, cut = at + length, _data_size(cards), ""
    # The filling of the file's last block may be missing: some writers leave it out and nothing is lost.
    if data_at + data_size > source.size:
        cut = (
            f"truncated: HDU {index} ({cards.string('EXTNAME') or 'no name'}) should reach byte "
            f"{data_at + data_size}, the file ends at {source.size}"
        )
    return Hdu(index, cards, data_at, data_size, raw[length : length + data_size], cut)


def table_dtype(cards: Cards) -> np.dtype[np.void]:
    """Return the dtype of a binary table's rows, columns under their ``TTYPE`` names in capitals.

    Raises
    ------
    BadStructureError
        The columns do not make up ``NAXIS1`` bytes.
    """
    fields: list[tuple[str, str]] = []
    for n in range(1, cards.integer("TFIELDS", most=999) + 1):
        match = _TFORM.match(cards.string(f"TFORM{n}"))
        if match is None:
            raise BadStructureError(f"header keyword TFORM{n} is {cards.get(f'TFORM{n}')!r}")
        fields.append((cards.string(f"TTYPE{n}", f"COLUMN {n}").upper(), _column(*match.groups())))
    try:
        width, dtype = _row_type(tuple(fields))
    except ValueError as error:
        raise BadStructureError(f"table columns: {error}") from error
    # Not `dtype.itemsize`: numpy lets the sum of large columns overflow, to offsets that point outside the row.
    if width != cards.integer("NAXIS1", least=1):
        raise BadStructureError(f"table rows of {cards.get('NAXIS1')} bytes, but columns of {width}")
    return dtype


@lru_cache(maxsize=256)
def _row_type(fields: tuple[tuple[str, str], ...]) -> tuple[int, np.dtype[np.void]]:
    """Return the bytes of all columns, and numpy's type of a row; numpy takes as long as reading the table."""
    return sum(np.dtype(kind).itemsize for _, kind in fields), np.dtype(list(fields))


def table_column(rows: NDArray[np.void], name: str, kinds: str, *shape: int) -> NDArray[Any]:
    """Return a column of a table.

    Parameters
    ----------
    rows
        The table.
    name
        Of a column that is there.
    kinds
        The kinds that it may have, as numpy's ``dtype.kind``.
    shape
        Of a cell; nothing for single values.

    Raises
    ------
    BadStructureError
        It has values of another kind or shape.
    """
    column: NDArray[Any] = rows[name]
    if column.dtype.kind not in kinds or column.shape != (len(rows), *shape):
        raise BadStructureError(f"column {name} has cells of type {rows.dtype[name]}")
    return column


def _column(count: str, code: str) -> str:
    """Return the numpy type of a ``TFORM``."""
    n = int(count[:9] or 1)
    if code == "A":
        return f"S{n}"
    if code == "X":
        return f"V{(n + 7) // 8}"
    # A descriptor stays a pair whether "1P" or "P"; any other count is an array in the cell.
    return _COLUMN_TYPES[code] if n == 1 else f"({n},){_COLUMN_TYPES[code]}" if code not in "PQ" else "V0"


def _header_length(raw: bytes) -> int | None:
    """Return the bytes of the header that starts ``raw``, up to a whole block, or None before its END is there."""
    at = raw.find(_END)
    while at % _CARD:
        if at < 0:
            return None
        at = raw.find(_END, at + 1)
    length = -(-(at + _CARD) // BLOCK) * BLOCK
    return length if length <= len(raw) else None


def _data_size(cards: Cards) -> int:
    """Return the bytes of an HDU's data (FITS standard 4.0, equation 2)."""
    axes = cards.integer("NAXIS", most=999)
    if axes == 0:
        return 0
    pixels = 1
    for n in range(1, axes + 1):
        pixels *= cards.integer(f"NAXIS{n}")
    extra = cards.integer("PCOUNT", 0)
    return abs(cards.integer("BITPIX", least=-64, most=64)) // 8 * cards.integer("GCOUNT", 1) * (extra + pixels)


@lru_cache(maxsize=4096)
def _value(text: str) -> Value:
    """Parse the value field of a card; the files of a repository have most of them in common."""
    text = text.strip()
    if text.startswith("'"):
        match = _STRING.match(text)
        return match[1].replace("''", "'").rstrip() if match else None
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    try:
        return int(text)
    except ValueError:
        return _float(text)


def _float(text: str) -> Value:
    """Return a floating-point value, or the text itself where it is none; None where there is no text."""
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text or None
