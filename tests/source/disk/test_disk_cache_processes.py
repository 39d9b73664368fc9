"""The disk cache of several processes: at once, killed at any moment, and forked."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from lsstcutouts.source.disk.disk_cache import DiskCache, key_of
from lsstcutouts.source.disk.upkeep import check, summary

SIZE = 4_000_000
COMMON = f"""
import os, random, sys
from pathlib import Path
from lsstcutouts.source.disk.disk_cache import DiskCache, key_of
def content(name): return random.Random(name).randbytes({SIZE})
cache = DiskCache(Path(sys.argv[1]), int(sys.argv[2]))
seed = int(sys.argv[3])
"""

FOREVER = """
files = {name: content(name) for name in ("a", "b")}
draw = random.Random(seed)
print("ready", flush=True)
while True:
    name, start = draw.choice("ab"), draw.randrange(len(files["a"]))
    data = files[name][start : start + draw.randrange(1, 300_000)]
    cache.write(key_of(name), start, data)
    found = cache.read(key_of(name), start, len(data))
    assert found is None or found == data
"""

SHARED = """
data = content("a")
key = key_of("a")
pieces = list(range(0, len(data), 50_000))
for start in pieces[seed::2]:
    cache.write(key, start, data[start : start + 50_000])
while cache.missing(key, 0, len(data)):
    pass
assert cache.read(key, 0, len(data)) == data
print(cache.figures().written)
"""

FORKED = """
data = content("a")
key = key_of("a")
cache.write(key, 0, data[:1000])
before = set(os.listdir(cache.folder))
child = os.fork()
cache.write(key, 1000 if child else 2000, data[1000:2000] if child else data[2000:3000])
if child == 0:
    assert cache.read(key, 0, 1000) == data[:1000]
    assert cache.figures().written == 1000
    assert cache.figures().hits == 1
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert len(set(os.listdir(cache.folder)) - before) == 3
assert cache.missing(key, 0, 4000, refresh=True) == [(3000, 4000)]
assert cache.read(key, 0, 3000) == data[:3000]
"""


def content(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def started(code: str, folder: Path, budget: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMON + code, str(folder), str(budget), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process, which must succeed, and return what it printed."""
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return printed


def test_two_processes_share_what_they_write(tmp_path: Path) -> None:
    """Each writes every second piece, and waits until it can read all."""
    processes = [started(SHARED, tmp_path, 100_000_000, seed) for seed in range(2)]
    assert sum(int(ended(one)) for one in processes) == SIZE
    assert check(tmp_path).damaged == 0
    assert summary(tmp_path).written == SIZE


def test_processes_killed_at_any_moment(tmp_path: Path) -> None:
    """Two at a time, with a budget that lets them remove each other's segments; all that is left is right."""
    files = {name: content(name) for name in ("a", "b")}
    budget, draw = 9_000_000, random.Random(5)
    for round_ in range(4):
        processes = [started(FOREVER, tmp_path, budget, 2 * round_ + n) for n in range(2)]
        for one in processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n", one.communicate()[1]
        time.sleep(draw.uniform(0.02, 0.4))
        for one in processes:
            assert one.poll() is None, one.communicate()[1]
            one.send_signal(signal.SIGKILL)
            one.communicate(timeout=60)
        cache = DiskCache(tmp_path, budget)
        readable = 0
        for name, data in files.items():
            for start in range(0, SIZE, 10_000):
                found = cache.read(key_of(name), start, 10_000)
                assert found is None or found == data[start : start + 10_000]
                readable += found is not None
        assert readable > 0
        figures = cache.figures()
        assert figures.damaged == 0
        assert figures.bytes <= budget + 2 * budget // 8 + 100_000
    cache.write(key_of("c"), 0, content("c"))
    assert cache.read(key_of("c"), 0, SIZE) == content("c")


def test_a_forked_process_writes_segments_of_its_own(tmp_path: Path) -> None:
    ended(started(FORKED, tmp_path, 100_000_000, 0))
    found = summary(tmp_path)
    assert (found.segments, found.written, found.hits) == (2, 3000, 2)
    assert len(os.listdir(tmp_path / "ranges-1")) == 5  # noqa: PTH208
