"""Ranges of bytes that have been asked for."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.source.web.byte_parts import URGENT, Part, without

FILE = bytes(range(256))
RANGES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 255)).map(lambda pair: (min(pair), max(pair))), max_size=8
)


def bytes_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {i for start, stop in ranges for i in range(start, stop)}


@given(RANGES, RANGES)
def test_without_is_the_difference_of_sets(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    found = without(ranges, others)
    assert bytes_of(found) == bytes_of(ranges) - bytes_of(others)
    assert all(start < stop for start, stop in found if (start, stop) not in ranges)


@given(st.integers(0, 200), st.integers(1, 55), RANGES, st.integers(1, 256))
def test_a_part_is_complete_when_all_its_bytes_have_come(
    start: int, length: int, arriving: list[tuple[int, int]], size: int
) -> None:
    part = Part(start, start + length, URGENT, deque())
    want = bytes_of([(start, start + length)])
    for first, last in arriving:
        part.put(first, memoryview(FILE)[first:last])
        want -= bytes_of([(first, last)])
        assert bytes_of(part.missing) == want
        assert part.missing == sorted(part.missing)
        assert part.arrived == length - len(want)
    size = max(size, start)
    part.end_at(size)
    assert bytes_of(part.missing) == {i for i in want if i < size}
    part.put(0, memoryview(FILE)[:size])
    assert not part.missing
    assert part.take() == FILE[start : min(start + length, size)]
