"""Records of an index file: what is written is read; what is incomplete or changed is left out."""

import random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.source.disk.records import LARGEST_FILE, RECORD, RECORD_BYTES, decode_records, encode_records

KEY = bytes(range(15)) + b"\0"
"""It ends with a zero byte, which NumPy's strings would lose."""


def encoded(count: int = 5) -> bytes:
    data = random.Random(count).randbytes(count)
    return b"".join(encode_records(KEY, n, memoryview(data[n : n + 1]), n).tobytes() for n in range(count))


@given(st.integers(0, LARGEST_FILE - 200_000), st.integers(1, 200_000), st.integers(0, 64_000_000))
def test_records_cover_what_they_were_made_of(start: int, length: int, position: int) -> None:
    data = random.Random(length).randbytes(length)
    records, read = decode_records(encode_records(KEY, start, memoryview(data), position).tobytes())
    assert read == records.nbytes
    at = 0
    for key, begin, size, place, crc, _ in records.tolist():
        assert (key, begin, place) == (KEY, start + at, position + at)
        assert 0 < size <= RECORD_BYTES
        assert crc == crc32(data[at : at + size])
        at += size
    assert at == length


def test_an_incomplete_last_record_is_read_again() -> None:
    content = encoded()
    for end in range(len(content) + 1):
        records, read = decode_records(content[:end])
        assert len(records) == end // RECORD.itemsize
        assert read == len(records) * RECORD.itemsize


def test_a_changed_record_is_left_out() -> None:
    """In the middle it is skipped; at the end another process may still be writing it."""
    content = encoded()
    for at in range(len(content)):
        wrong = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        records, read = decode_records(wrong)
        changed = at // RECORD.itemsize
        assert records["start"].tolist() == [n for n in range(5) if n != changed]
        assert read == (4 if changed == 4 else 5) * RECORD.itemsize


def test_zeros_are_no_records() -> None:
    """What a crash of the machine may leave."""
    records, read = decode_records(bytes(10 * RECORD.itemsize))
    assert (len(records), read) == (0, 0)


@pytest.mark.parametrize(("key", "start"), [(b"short", 0), (KEY, -1), (KEY, LARGEST_FILE)])
def test_what_no_record_can_hold(key: bytes, start: int) -> None:
    with pytest.raises(ValueError, match="the disk cache cannot hold 3 bytes at"):
        encode_records(key, start, memoryview(b"abc"), 0)
