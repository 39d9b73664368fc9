"""The records of an index file: which bytes of a remote file are where in a segment."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT", "LARGEST_FILE", "RECORD", "RECORD_BYTES", "Records", "decode_records", "encode_records"]

FORMAT = "ranges-1"
"""Folder of the segments; another format gets another folder, so that versions do not read each other's files."""

RECORD_BYTES = 32 << 10
"""Most bytes of one record. Its CRC is checked as a whole, so a tile of 20 kB in the midst of a long range takes two records."""

LARGEST_FILE = 1 << 40
"""Bytes of the largest remote file: the index in memory keeps offsets in 40 bits."""

RECORD = np.dtype(
    [("key", "V16"), ("start", "<i8"), ("length", "<i4"), ("position", "<i8"), ("crc", "<u4"), ("check", "<u4")]
)
"""Key of the remote file, start in it, length, position in the segment (bytes), CRC of the bytes, CRC of the record."""

type Records = NDArray[np.void]
"""Records of type `RECORD`, shape (N,)."""


def encode_records(key: bytes, start: int, data: memoryview, position: int) -> Records:
    """Return the records of bytes that are written at one position of a segment.

    Raises
    ------
    ValueError
        The key does not have 16 bytes, or the bytes are not within the first TiB of a file.
    """
    if len(key) != 16 or start < 0 or start + len(data) > LARGEST_FILE:
        raise ValueError(f"the disk cache cannot hold {len(data)} bytes at {start} of the file with key {key!r}")
    begins = np.arange(0, len(data), RECORD_BYTES)
    records = np.empty(len(begins), RECORD)
    records["key"] = np.void(key)
    records["start"] = start + begins
    records["length"] = np.minimum(len(data) - begins, RECORD_BYTES)
    records["position"] = position + begins
    records["crc"] = [crc32(data[begin : begin + RECORD_BYTES]) for begin in begins.tolist()]
    records["check"] = _checks(records)
    return records


def decode_records(content: bytes) -> tuple[Records, int]:
    """Return the valid records of a part of an index file, and how many bytes need not be read again.

    A record with a wrong CRC is left out. At the end it may still be incomplete, so it is read again next time.
    """
    records = np.frombuffer(content, RECORD, len(content) // RECORD.itemsize)
    valid = np.flatnonzero(records["check"] == _checks(records))
    return records[valid], (int(valid[-1]) + 1) * RECORD.itemsize if len(valid) else 0


def _checks(records: Records) -> NDArray[np.uint32]:
    """Return the CRC of each record's body."""
    bodies: Sequence[bytes] = records.view([("body", "V40"), ("check", "<u4")])["body"].tolist()
    return np.fromiter(map(crc32, bodies), np.uint32, len(bodies))
