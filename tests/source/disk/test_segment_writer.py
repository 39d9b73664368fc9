"""Appending to segments: sizes, modes, and what happens when they are removed or refused."""

import os
from pathlib import Path

import pytest

from lsstcutouts.source.disk.records import decode_records
from lsstcutouts.source.disk.segment_writer import SegmentWriter
from lsstcutouts.source.disk.segments import list_segments

KEY = b"k" * 16


def append(writer: SegmentWriter, data: bytes, start: int = 0) -> tuple[str, int]:
    """Append, and return the name of the segment and the bytes that it took."""
    name = writer.segment()
    return name, int(writer.append(KEY, start, memoryview(data))["length"].sum())


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "ranges", 8_000_000)
    data = os.urandom(1_500_000)
    first, count = append(writer, data)
    assert count == 1_000_000
    second, rest = append(writer, data[count:], count)
    assert (second != first, rest) == (True, 500_000)
    for name, part in ((first, data[:count]), (second, data[count:])):
        assert (tmp_path / "ranges" / f"{name}.seg").read_bytes() == part
        records, _ = decode_records((tmp_path / "ranges" / f"{name}.idx").read_bytes())
        assert records["length"].sum() == len(part)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        append(SegmentWriter(tmp_path / "ranges", None), b"data")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "ranges").iterdir()]
    assert modes == [0o600, 0o600]
    assert (tmp_path / "ranges").stat().st_mode & 0o777 == 0o700


def test_a_removed_segment_is_followed_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "ranges"
    writer = SegmentWriter(folder, None)
    first, _ = append(writer, b"data")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    second, _ = append(writer, b"more")
    assert [one.name for one in list_segments(folder)] == [second]
    assert second != first
    assert (folder / f"{second}.seg").read_bytes() == b"more"


def test_after_an_error_another_segment_begins(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, None)
    name = writer.segment()
    with pytest.raises(ValueError, match="cannot hold"):
        writer.append(b"short", 0, memoryview(b"data"))
    writer.close()
    assert append(writer, b"data")[0] != name
