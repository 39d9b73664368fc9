"""The disk cache of one process: what is written is read, by whatever cache of the folder; damage is found."""

import errno
import os
import random
import resource
import tempfile
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.source.disk import records
from lsstcutouts.source.disk.disk_cache import DiskCache, key_of
from lsstcutouts.source.disk.records import RECORD, RECORD_BYTES
from lsstcutouts.source.disk.upkeep import clear

SIZE = 150_000
FILES = {key_of(name): random.Random(name).randbytes(SIZE) for name in ("a", "b")}
KEY = key_of("a")
DATA = FILES[KEY]
RANGES = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 90_000)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))


def test_keys() -> None:
    name = "018f3b1c-9d1e-7c3a-8a55-0123456789ab"
    assert key_of(name) == uuid.UUID(name).bytes
    assert key_of("some other text") == key_of("some other text") != key_of("another")
    assert len(key_of("some other text")) == 16


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(sorted(FILES)), st.booleans(), RANGES), max_size=20))
def test_ranges_equal_a_model(steps: list[tuple[int, bytes, bool, tuple[int, int]]]) -> None:
    """Two caches of a folder, as of two processes: each reads what both have written."""
    held = {key: np.zeros(SIZE, bool) for key in FILES}
    with tempfile.TemporaryDirectory() as folder:
        caches = [DiskCache(Path(folder)) for _ in range(2)]
        for which, key, written, (start, stop) in steps:
            cache = caches[which]
            if written:
                cache.write(key, start, FILES[key][start:stop])
                held[key][start:stop] = True
            gaps = cache.missing(key, start, stop, refresh=True)
            missing = np.zeros(SIZE, bool)
            for first, last in gaps:
                missing[first:last] = True
            np.testing.assert_array_equal(missing[start:stop], ~held[key][start:stop])
            assert gaps == sorted(gaps)
            assert cache.read(key, start, stop - start) == (None if gaps else FILES[key][start:stop])
        assert DiskCache(Path(folder)).figures().files == sum(bool(one.any()) for one in held.values())


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA[:50_000])
    cache.write(KEY, 20_000, DATA[20_000:60_000])
    cache.write(KEY, 0, memoryview(DATA)[:60_000])
    cache.write(KEY, 7, b"")
    figures = cache.figures()
    assert figures.written == 60_000
    assert figures.bytes == 60_000 + 3 * RECORD.itemsize
    assert cache.read(KEY, 7, 0) == b""


def test_threads_write_at_once(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 8_000_000)
    data = random.Random(7).randbytes(3_000_000)

    def write(start: int) -> None:
        cache.write(KEY, start, data[start : start + 90_000])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(0, len(data), 50_000)))
    assert cache.read(KEY, 0, len(data)) == data
    assert cache.figures().written == len(data)
    assert DiskCache(tmp_path).read(KEY, 0, len(data)) == data


def test_figures(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 5_000_000)
    cache.write(KEY, 100, DATA[100:300])
    for start in (100, 200, 201):
        cache.read(KEY, start, 100)
    found = cache.figures()
    assert (found.files, found.segments, found.budget) == (1, 1, 5_000_000)
    assert (found.hits, found.misses, found.hit_bytes, found.miss_bytes) == (2, 1, 200, 100)
    assert (found.written, found.damaged) == (200, 0)


def test_nothing_but_bytes_is_stored(tmp_path: Path) -> None:
    """The key, numbers and the bytes of the file: no name, no address, no token."""
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA[:100])
    cache.read(KEY, 0, 100)
    cache.close()
    contents = {path.suffix: path.read_bytes() for path in cache.folder.iterdir()}
    assert set(contents) == {".seg", ".idx", ".jsonl"}
    assert contents[".seg"] == DATA[:100]
    assert len(contents[".idx"]) == RECORD.itemsize
    assert contents[".idx"].startswith(KEY)
    assert {path.stat().st_mode & 0o777 for path in cache.folder.iterdir()} == {0o600}


# Damage


def flip(folder: Path, position: int) -> None:
    """Change a bit of the only segment."""
    (path,) = folder.glob("*.seg")
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_found_and_its_bytes_written_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA)
    flip(cache.folder, 70_000)
    assert cache.read(KEY, 60_000, 20_000) is None
    assert cache.figures().damaged == 1
    first, last = 2 * RECORD_BYTES, 3 * RECORD_BYTES
    assert cache.missing(KEY, 0, SIZE, refresh=True) == [(first, last)]
    assert cache.read(KEY, 0, first) == DATA[:first]
    assert cache.read(KEY, last, SIZE - last) == DATA[last:]
    assert cache.figures().damaged == 1
    cache.write(KEY, first, DATA[first:last])
    assert cache.read(KEY, 0, SIZE) == DATA
    # Another process finds the damaged record as well, and uses the other one.
    other = DiskCache(tmp_path)
    assert other.read(KEY, 0, SIZE) == DATA
    assert other.figures().damaged <= 1


@pytest.mark.parametrize("end", [0, 1, 40_000, SIZE - 1])
def test_a_truncated_segment(tmp_path: Path, end: int) -> None:
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA)
    (path,) = cache.folder.glob("*.seg")
    os.truncate(path, end)
    whole = end // RECORD_BYTES * RECORD_BYTES
    other = DiskCache(tmp_path)
    assert other.read(KEY, 0, SIZE) is None
    assert other.read(KEY, 0, whole) == DATA[:whole]
    other.write(KEY, 0, DATA)
    assert other.read(KEY, 0, SIZE) == DATA


def test_an_incomplete_index(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA)
    (path,) = cache.folder.glob("*.idx")
    os.truncate(path, 2 * RECORD.itemsize + 11)
    assert DiskCache(tmp_path).missing(KEY, 0, SIZE) == [(2 * RECORD_BYTES, SIZE)]


# Removal


def test_segments_removed_by_others(tmp_path: Path) -> None:
    reader, writer = DiskCache(tmp_path), DiskCache(tmp_path)
    writer.write(KEY, 0, DATA)
    assert reader.missing(KEY, 0, SIZE) == []
    clear(tmp_path)
    assert reader.read(KEY, 0, 100) is None
    assert reader.figures().damaged == 0
    assert writer.missing(KEY, 0, SIZE, refresh=True) == [(0, SIZE)]
    writer.write(KEY, 0, DATA[:10])
    assert reader.missing(KEY, 0, 20, refresh=True) == [(10, 20)]
    assert reader.read(KEY, 0, 10) == DATA[:10]


def test_a_process_that_misses_nothing_gives_up_removed_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsstcutouts.source.disk.disk_cache._IDLE_SCAN_SECONDS", 0.25)
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA)
    assert cache.read(KEY, 0, SIZE) == DATA
    clear(tmp_path)
    assert cache.read(KEY, 0, SIZE) == DATA  # from the open file
    time.sleep(0.3)
    assert cache.read(KEY, 0, SIZE) is None


def test_threads_read_while_segments_are_removed(tmp_path: Path) -> None:
    """Each gets the right bytes, or None."""
    reader, writer = DiskCache(tmp_path), DiskCache(tmp_path, 16_000_000)
    end = threading.Event()

    def read(seed: int) -> int:
        draw, found = random.Random(seed), 0
        while not end.is_set():
            key, start = draw.choice(sorted(FILES)), draw.randrange(SIZE)
            data = reader.read(key, start, min(20_000, SIZE - start))
            if data is not None:
                assert data == FILES[key][start : start + 20_000]
                found += 1
            reader.missing(key, 0, SIZE, refresh=True)
        return found

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(read, seed) for seed in range(4)]
        for _ in range(30):
            for key, data in FILES.items():
                writer.write(key, 0, data)
            time.sleep(0.02)
            clear(tmp_path)
            writer.missing(KEY, 0, 1, refresh=True)
        end.set()
        assert sum(result.result() for result in results) > 0
    assert reader.figures().damaged == 0


def test_the_budget_is_kept(tmp_path: Path) -> None:
    """Within one segment for each writer; the newest bytes are there, the oldest are not."""
    budget, segment = 8_000_000, 1_000_000
    writers = [DiskCache(tmp_path, budget) for _ in range(2)]
    data = random.Random(3).randbytes(20_000_000)
    for n, start in enumerate(range(0, len(data), 250_000)):
        writers[n % 2].write(KEY, start, data[start : start + 250_000])
        assert writers[0].figures().bytes <= budget + 2 * segment
    found = writers[0].figures()
    assert found.budget == budget
    assert found.bytes > budget - 2 * segment
    reader = DiskCache(tmp_path)
    assert reader.read(KEY, len(data) - 4_000_000, 4_000_000) == data[-4_000_000:]
    assert reader.missing(KEY, 0, 4_000_000) == [(0, 4_000_000)]


# A disk that takes no more


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """Let the operating system refuse to make files longer: a write stops there, and the next one fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning; what was written before is read; what was written in part is not."""
    cache = DiskCache(tmp_path)
    cache.write(KEY, 0, DATA[:60_000])
    with files_of_at_most(100_000):
        cache.write(KEY, 60_000, DATA[60_000:])
        cache.write(key_of("b"), 0, FILES[key_of("b")])
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    text = caplog.text
    assert f"the disk cache in {cache.folder} takes no more data in this process: [Errno {errno.EFBIG}]" in text
    assert "free disk space, or set LSSTCUTOUTS_CACHE to another folder" in text
    (path,) = cache.folder.glob("*.seg")
    assert path.stat().st_size == 100_000
    for one in (cache, DiskCache(tmp_path)):
        assert one.read(KEY, 0, 60_000) == DATA[:60_000]
        assert one.missing(KEY, 0, SIZE) == [(60_000, SIZE)]
    cache.write(KEY, 60_000, DATA[60_000:])
    assert cache.figures().written == 60_000
    assert len(caplog.records) == 1
    # Another process, when there is room again.
    later = DiskCache(tmp_path)
    later.write(KEY, 0, DATA)
    assert later.read(KEY, 0, SIZE) == DATA


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with files_of_at_most(0):
        cache = DiskCache(tmp_path)
        cache.write(KEY, 0, DATA)
        cache.close()
    assert len(caplog.records) == 1
    assert cache.read(KEY, 0, 10) is None


# The cache of the process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LSSTCUTOUTS_CACHE_BYTES", raising=False)
    return tmp_path / "cache"


def test_one_cache_for_each_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache.of_process()
    assert cache is not None
    assert cache is DiskCache.of_process()
    assert cache.folder.parent == folder
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "2 GB")
    other = DiskCache.of_process()
    assert other is not None
    assert other.figures().budget == 2_000_000_000


def test_a_folder_that_others_may_read_is_closed(folder: Path) -> None:
    (folder / "ranges-1").mkdir(parents=True)
    (folder / "ranges-1").chmod(0o755)
    cache = DiskCache.of_process()
    assert cache is not None
    assert cache.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("name", "value"), [("LSSTCUTOUTS_CACHE", "off"), ("LSSTCUTOUTS_CACHE_BYTES", "0")])
def test_off(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert DiskCache.of_process() is None
    assert not folder.exists()


def test_a_folder_that_cannot_be_made(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.touch()
    assert DiskCache.of_process() is None
    assert DiskCache.of_process() is None
    assert len(caplog.records) == 1
    assert "remote files are not cached on the disk" in caplog.text
    assert "set LSSTCUTOUTS_CACHE to a folder on a local disk, or to 'off'" in caplog.text


def test_a_wrong_budget_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "much")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="LSSTCUTOUTS_CACHE_BYTES='much'"):
            DiskCache.of_process()


# Size


def write_index(folder: Path, segments: int, count: int, files: int) -> None:
    """Write the index files of full segments, whose records are of any file in any order."""
    draw = np.random.default_rng(1)
    keys = np.frombuffer(draw.bytes(16 * files), "V16")
    folder.mkdir(parents=True)
    for n in range(segments):
        found = np.zeros(count, RECORD)
        found["key"] = keys[draw.integers(files, size=count)]
        found["start"] = draw.integers(100_000_000, size=count)
        found["length"] = RECORD_BYTES
        found["position"] = np.arange(count) * RECORD_BYTES
        found["check"] = records._checks(found)
        (folder / f"{n}.idx").write_bytes(found.tobytes())


@pytest.mark.slow
def test_the_largest_cache_starts_quickly_and_needs_little_memory(tmp_path: Path) -> None:
    """20 GB in 600 000 records; the time is printed, since it depends on the machine."""
    write_index(tmp_path / "ranges-1", 300, 2000, 3000)
    cache = DiskCache(tmp_path)
    start = time.perf_counter()
    cache.missing(KEY, 0, 1)
    print(f"{time.perf_counter() - start:.2f} s for 600 000 records")  # noqa: T201
    tracemalloc.start()
    try:
        cache = DiskCache(tmp_path)
        cache.missing(KEY, 0, 1)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{held / 1e6:.1f} MB, at most {most / 1e6:.1f} MB")  # noqa: T201
    assert most < 40_000_000
    assert held < 20_000_000
    assert cache._table.files() == 3000
