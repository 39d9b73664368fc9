"""Proves where the values of a Parquet column chunk stand in the file, from its footer and its page header.

The page header is a Thrift struct in the compact protocol (github.com/apache/parquet-format, parquet.thrift;
github.com/apache/thrift, doc/specs/thrift-compact-protocol.md).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Chunk", "ChunkValues", "PageHeader", "locate_values", "parse_page_header"]

_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_HEAD = 128
"""Bytes that are read first: a header without statistics has some 30, and the length of the first levels follows it."""

_LONG_HEAD = 65536
"""Bytes that are read if a header is longer than that, as one with statistics of long values may be."""

type ReadBytes = Callable[[int, int], bytes]
"""Returns the bytes of a file from an offset, of a length or up to the end of the file."""


@dataclass(frozen=True, slots=True)
class PageHeader:
    """The header of a data page of version 1.

    Attributes
    ----------
    length
        Bytes of the header.
    size
        Bytes of the page after it.
    values
        Number of values, null ones and those of empty lists counted.
    plain
        Whether values are in plain encoding, and levels in RLE.
    """

    length: int
    size: int
    values: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column chunk, from the footer.

    Attributes
    ----------
    offset, length
        Where it stands in the file, bytes.
    values, rows
        Number of values, null ones counted, and rows of its group.
    repeated, optional
        Whether there are repetition and definition levels.
    """

    offset: int
    length: int
    values: int
    rows: int
    repeated: bool
    optional: bool


@dataclass(frozen=True, slots=True)
class ChunkValues:
    """Where the values of a chunk stand: ``rows`` rows that are not null, one after another from the byte ``offset`` on."""

    offset: int
    rows: int


def parse_page_header(data: bytes) -> PageHeader | None:
    """Return the header at the start of bytes; None if it is of another page, or the bytes end before it does."""
    try:
        fields, length = _struct(data, 0)
        page = fields[5]
        if fields[1] != _DATA_PAGE or fields[2] != fields[3]:
            return None
        plain = page[2] == _PLAIN and page[3] == _RLE and page[4] == _RLE
        return PageHeader(length, fields[3], page[1], plain)
    except (IndexError, KeyError, TypeError, RecursionError):
        return None


def locate_values(read: ReadBytes, chunk: Chunk, row_values: int, bits: int) -> ChunkValues | None:
    """Return where the values of a chunk stand, or None if it is not certain.

    It is certain if the chunk is one data page of version 1 in plain encoding, whose levels and values fill the chunk exactly,
    and whose number of values is that of rows of ``row_values`` and of null rows. That the chunk is not compressed, and that
    each list has its full length, is to be known from the footer.

    Parameters
    ----------
    read
        Reads the file.
    chunk
        From the footer.
    row_values
        Values of a row that is not null.
    bits
        Bits of a value: 1 for booleans, which are packed across rows, the first one in the lowest bit.
    """
    head = read(chunk.offset, min(_HEAD, chunk.length))
    header = parse_page_header(head)
    if header is None and chunk.length > _HEAD:
        head = read(chunk.offset, min(_LONG_HEAD, chunk.length))
        header = parse_page_header(head)
    if (
        header is None
        or not header.plain
        or header.length + header.size != chunk.length
        or header.values != chunk.values
    ):
        return None
    at, end = chunk.offset + header.length, chunk.offset + chunk.length
    for _ in range(chunk.repeated + chunk.optional):
        start = at - chunk.offset
        size = head[start : start + 4] if start + 4 <= len(head) else read(at, 4)
        if len(size) < 4:
            return None
        at += 4 + int(struct.unpack("<I", size)[0])
        if at > end:
            return None
    rows = _rows_with_values(chunk, row_values, bits, end - at)
    return None if rows is None else ChunkValues(at, rows)


def _rows_with_values(chunk: Chunk, row_values: int, bits: int, length: int) -> int | None:
    """Return the number of rows that are not null, if the numbers of values, rows and bytes agree."""
    if not chunk.optional:
        rows = chunk.rows
    elif row_values > 1:
        # A null row counts as one value.
        rows, rest = divmod(chunk.values - chunk.rows, row_values - 1)
        if rest:
            return None
    elif bits < 8:
        return None
    else:
        rows = length * 8 // bits
    fits = 0 <= rows <= chunk.rows and chunk.values == rows * row_values + chunk.rows - rows
    return rows if fits and length == -(-rows * row_values * bits // 8) else None


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, kind)


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    """Return a value and where it ends."""
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return _bytes(data, at, 8)
    if kind == 8:
        size, at = _varint(data, at)
        return _bytes(data, at, size)
    if kind == 12:
        return _struct(data, at)
    raise KeyError(kind)  # lists, sets and maps are in no page header


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise IndexError(at)
    return data[at : at + size], at + size


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        one = data[at]
        at += 1
        value |= (one & 127) << shift
        if one < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise KeyError(shift)
