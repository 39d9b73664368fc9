"""The segments in a folder: which are new, removed or the oldest, and how many stay open."""

import gc
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lsstcutouts.source.disk import segments
from lsstcutouts.source.disk.records import RECORD, encode_records
from lsstcutouts.source.disk.segments import (
    SegmentFolder,
    budget_bytes,
    list_segments,
    make_room,
    remove_segment,
    segment_bytes,
)

KEY = b"k" * 16
MB = 1_000_000


def made(folder: Path, name: str, data: bytes = b"data", seconds: int = 0) -> None:
    """Write a segment whose last write was at some time."""
    (folder / f"{name}.seg").write_bytes(data)
    (folder / f"{name}.idx").write_bytes(encode_records(KEY, 0, memoryview(data), 0).tobytes())
    for kind in ("seg", "idx"):
        os.utime(folder / f"{name}.{kind}", (seconds, seconds))


def names(folder: Path) -> list[str]:
    return [one.name for one in list_segments(folder)]


def test_what_is_new_is_read_once(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path)
    made(tmp_path, "a")
    (tmp_path / "use.jsonl").touch()
    assert folder.scan() == (["a"], [])
    number, records = folder.new_records("a")
    assert records["length"].tolist() == [4]
    assert folder.read(number, 1, 9) == b"ata"
    assert folder.scan() == ([], [])
    with (tmp_path / "a.idx").open("ab") as file:
        record = encode_records(KEY, 70, memoryview(b"more"), 4).tobytes()
        file.write(record[:10])
        file.flush()
        assert folder.scan() == ([], [])
        file.write(record[10:])
    assert folder.scan() == (["a"], [])
    number_again, records = folder.new_records("a")
    assert (number_again, records["start"].tolist()) == (number, [70])


def test_a_removed_segment(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path)
    for name in ("a", "b"):
        made(tmp_path, name)
    numbers = {name: folder.new_records(name)[0] for name in folder.scan()[0]}
    remove_segment(tmp_path, "a")
    remove_segment(tmp_path, "a")
    assert folder.scan() == ([], [numbers["a"]])
    with pytest.raises(FileNotFoundError):
        folder.read(numbers["a"], 0, 1)
    remove_segment(tmp_path, "b")
    tmp_path.rmdir()
    assert folder.scan() == ([], [numbers["b"]])
    assert folder.scan() == ([], [])


def test_segments_of_this_process_and_unreadable_ones_are_not_scanned(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path)
    made(tmp_path, "own")
    made(tmp_path, "other")
    number = folder.adopt("own")
    assert folder.scan() == (["other"], [])
    other, _ = folder.new_records("other")
    assert other != number
    (tmp_path / "other.seg").unlink()
    folder.abandon(other)
    with (tmp_path / "other.idx").open("ab") as file:
        file.write(bytes(RECORD.itemsize))
    assert folder.scan() == ([], [])


def test_a_file_stays_open_while_it_is_read(tmp_path: Path) -> None:
    """While other threads let the folder close it, as only few stay open."""
    folder = SegmentFolder(tmp_path)
    for n in range(60):
        made(tmp_path, f"{n}", f"{n:06}".encode())
        folder.adopt(f"{n}")

    def read(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(3000):
            n = draw.randrange(60)
            assert folder.read(n, 0, 9) == f"{n:06}".encode()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))
    finally:
        sys.setswitchinterval(before)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_few_segments_stay_open(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path)
    for n in range(100):
        made(tmp_path, f"{n}")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(2):
        for name in map(str, range(100)):
            assert folder.read(folder.adopt(name), 0, 4) == b"data"
    assert len(os.listdir("/proc/self/fd")) == before + 32  # noqa: PTH208
    remove_segment(tmp_path, "7")
    folder.scan()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_oldest_are_removed(tmp_path: Path) -> None:
    for name, seconds in (("b", 20), ("c", 30), ("a", 10)):
        made(tmp_path, name, bytes(400_000), seconds)
    (tmp_path / "d.seg").write_bytes(bytes(300_000))  # of a process that was killed before it made the index
    os.utime(tmp_path / "d.seg", (15, 15))
    assert names(tmp_path) == ["a", "d", "b", "c"]
    assert make_room(tmp_path, 3 * MB) == MB
    assert names(tmp_path) == ["a", "d", "b", "c"]
    make_room(tmp_path, 2 * MB)
    assert names(tmp_path) == ["b", "c"]
    make_room(tmp_path, 1)
    assert names(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_segments_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MOST_SEGMENTS", 5)
    for n in range(8):
        made(tmp_path, f"{n}", seconds=n)
    make_room(tmp_path, None)
    assert names(tmp_path) == ["4", "5", "6", "7"]


def test_budgets(tmp_path: Path) -> None:
    assert budget_bytes(tmp_path, 12, 0) == 12
    free = budget_bytes(tmp_path / "not" / "made", None, 0)
    assert 0 < free <= 20_000 * MB
    assert budget_bytes(tmp_path, None, 10**15) == 20_000 * MB
    sizes = [segment_bytes(budget) for budget in (0, 8 * MB, 16 * MB, 512 * MB, 20_000 * MB)]
    assert sizes == [MB, MB, 2 * MB, 64 * MB, 64 * MB]
