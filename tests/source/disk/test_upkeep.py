"""Showing, clearing and checking a cache, as the command does."""

import os
from pathlib import Path

from lsstcutouts.source.disk.disk_cache import DiskCache, key_of
from lsstcutouts.source.disk.upkeep import CheckResult, check, clear, summary

KEY = key_of("a")
DATA = os.urandom(3_500_000)


def filled(folder: Path) -> DiskCache:
    cache = DiskCache(folder, 16_000_000)
    cache.write(KEY, 0, DATA)
    return cache


def test_a_summary_adds_up_processes(tmp_path: Path) -> None:
    for _ in range(2):
        cache = filled(tmp_path)
        cache.write(key_of("b"), 5, DATA[:10])
        assert cache.read(KEY, 100, 50) == DATA[100:150]
        assert cache.read(KEY, len(DATA), 7) is None
        cache.close()
    found = summary(tmp_path)
    assert (found.files, found.segments) == (2, 2)
    assert found.bytes == sum(path.stat().st_size for path in cache.folder.iterdir() if path.suffix != ".jsonl")
    assert (found.hits, found.misses, found.hit_bytes, found.miss_bytes) == (2, 2, 100, 14)
    assert (found.written, found.damaged) == (len(DATA) + 10, 0)


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    found = summary(tmp_path / "none")
    assert (found.bytes, found.files, found.segments, found.hits) == (0, 0, 0, 0)
    assert found.budget > 0
    assert clear(tmp_path / "none") == 0
    assert check(tmp_path / "none") == CheckResult(0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_only_the_cache_is_cleared(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.close()
    (tmp_path / "mine").touch()
    (tmp_path / "ranges-0").mkdir()
    (tmp_path / "ranges-0" / "mine").touch()
    assert clear(tmp_path) > len(DATA)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "mine", "ranges-0"]
    assert cache.missing(KEY, 0, 5, refresh=True) == [(0, 5)]
    cache.write(KEY, 0, DATA)
    assert cache.read(KEY, 0, len(DATA)) == DATA


def test_damaged_segments_are_removed(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    segments = sorted(cache.folder.glob("*.seg"))
    assert len(segments) == 2
    steps: list[tuple[int, int]] = []
    good = check(tmp_path, lambda done, total: steps.append((done, total)))
    assert good == CheckResult(segments=2, records=108, damaged=0, removed=0)
    assert [done for done, total in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == steps[-1][1] > len(DATA)
    content = bytearray(segments[0].read_bytes())
    content[1000] ^= 1
    content[-1000] ^= 1
    segments[0].write_bytes(content)
    assert check(tmp_path) == CheckResult(segments=2, records=108, damaged=2, removed=1)
    assert [path.name for path in cache.folder.glob("*.seg")] == [segments[1].name]
    assert check(tmp_path).damaged == 0
    assert cache.missing(KEY, 0, len(DATA), refresh=True) != []
