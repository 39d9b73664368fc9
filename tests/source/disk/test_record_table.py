"""The index in memory: which parts of records give a range, and what is missing."""

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.source.disk.record_table import RecordTable, plan_read
from lsstcutouts.source.disk.records import LARGEST_FILE, encode_records

RANGES = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda r: (r[0], r[0] + r[1]))


@given(st.lists(RANGES, max_size=12), RANGES)
def test_parts_and_gaps_make_up_the_range(held: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    rows = sorted((start, stop - start, n, 100 * n, n) for n, (start, stop) in enumerate(held))
    start, stop = asked
    parts, gaps = plan_read([row for row in rows if row[0] < stop], start, stop)
    given_bytes = []
    for part in parts:
        begin = held[part.segment][0]
        assert (part.position, part.crc) == (100 * part.segment, part.segment)
        assert 0 <= part.first < part.last <= part.length
        given_bytes += range(begin + part.first, begin + part.last)
    missing = [at for first, last in gaps for at in range(first, last)]
    assert sorted(given_bytes + missing) == list(range(start, stop))
    assert missing == [at for at in range(start, stop) if not any(a <= at < b for a, b in held)]
    assert given_bytes == sorted(given_bytes)


def added(table: RecordTable, key: bytes, start: int, length: int, segment: int) -> None:
    records = encode_records(key, start, memoryview(bytes(length)), start)
    table.add([table.rows(segment, records)])


def test_many_records_in_any_order() -> None:
    """More than are kept in the small table, of several files, among them the ends of what a file may be."""
    table = RecordTable()
    keys = [os.urandom(16) for _ in range(3)]
    order = np.random.default_rng(1).permutation(6000).tolist()
    for n in order:
        added(table, keys[n % 3], n // 3 * 10, 10, n % 7)
    added(table, keys[0], LARGEST_FILE - 5, 5, 9)
    for key in keys:
        assert table.plan(key, 0, 20_000)[1] == []
        parts, gaps = table.plan(key, 19_985, 20_010)
        assert [(part.first, part.last) for part in parts] == [(5, 10), (0, 10)]
        assert gaps == [(20_000, 20_010)]
    assert table.plan(keys[1], 0, 5)[0][0].segment == 1
    assert table.plan(keys[0], LARGEST_FILE - 7, LARGEST_FILE)[1] == [(LARGEST_FILE - 7, LARGEST_FILE - 5)]
    assert table.plan(os.urandom(16), 3, 4) == ([], [(3, 4)])
    assert table.files() == 3


def test_a_long_record_that_begins_far_before() -> None:
    table = RecordTable()
    key = os.urandom(16)
    added(table, key, 1000, 32 << 10, 0)
    last = 1000 + (32 << 10)
    assert table.plan(key, last - 1, last)[1] == []
    assert table.plan(key, last, last + 1)[1] == [(last, last + 1)]
    assert table.plan(key, 999, 1001)[1] == [(999, 1000)]


def test_records_are_dropped() -> None:
    table = RecordTable()
    key = os.urandom(16)
    for n in range(5000):
        added(table, key, n * 10, 10, n % 2)
    added(table, key, 50_000, 10, 2)
    table.drop([0], 20)
    assert table.plan(key, 0, 50_010)[1] == [(20, 30)]
    table.drop([1, 2])
    assert table.plan(key, 0, 60)[1] == [(10, 40), (50, 60)]
    assert table.plan(key, 50_000, 50_010)[1] == [(50_000, 50_010)]
