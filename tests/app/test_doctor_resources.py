"""The doctor on machines without enough memory, disk or files."""

from pathlib import Path

import pytest

from lsstcutouts.app.doctor import Settings
from lsstcutouts.read.cache.limits import MemoryLimits, memory_limits

from ..support.doctor import GB, FakeResources, one


def test_a_cache_beyond_the_memory_fails() -> None:
    check = one("resources", Settings(cache_bytes="100 TB"), resources=FakeResources())
    assert check.status == "fail"
    assert "100000.0 GB" in check.detail
    assert "cache_bytes" in check.todo


def test_a_budget_that_cannot_be_understood_fails() -> None:
    check = one("resources", Settings(cache_bytes="a lot"), resources=FakeResources())
    assert check.status == "fail"
    assert "'a lot' is no amount of memory" in check.detail


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "job"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/job\n")
    (group / "memory.max").write_text("600000000\n")
    (group / "memory.current").write_text("450000000\n")
    limits = memory_limits(proc=tmp_path, cgroup=tmp_path / "cgroup", environ={})
    check = one("resources", Settings(cache_bytes="500 MB"), resources=FakeResources(limits))
    assert check.status == "fail"
    assert "limited by the cgroup" in check.detail
    assert "150 MB" not in one("resources", Settings(cache_bytes="500 MB"), resources=FakeResources()).detail


def test_batches_and_workers_count_as_memory() -> None:
    limits = MemoryLimits(2 * GB, 16 * GB, "slurm")
    small = Settings(cache_bytes="500 MB", batch_size=16)
    assert one("resources", small, resources=FakeResources(limits)).status == "pass"
    for more in ({"batch_size": 4096}, {"num_workers": 8}):
        settings = Settings(**{"cache_bytes": "500 MB", "batch_size": 16} | more)
        check = one("resources", settings, resources=FakeResources(limits))
        assert check.status == "fail"
        assert "of memory are needed" in check.detail


@pytest.mark.parametrize(
    ("free", "status", "words"),
    [
        ({"output": None}, "fail", "cannot be written to"),
        ({"output": 50_000_000}, "fail", "50 MB free in the output folder"),
        ({"output": GB}, "warn", "checkpoints may fill it"),
        ({"temporary": 1_000_000}, "fail", "1 MB free in the temporary folder"),
        ({"temporary": None}, "fail", "the temporary folder /scratch/temporary cannot be written to"),
    ],
)
def test_a_full_disk_is_seen(free: dict[str, int | None], status: str, words: str) -> None:
    check = one("resources", Settings(output="/data/output"), resources=FakeResources(free=free))
    assert check.status == status
    assert words in check.detail


def test_shared_memory_counts_only_with_workers() -> None:
    docker = FakeResources(shared_free=64 << 20)
    assert one("resources", Settings(), resources=docker).status == "pass"
    check = one("resources", Settings(num_workers=4), resources=docker)
    assert check.status == "fail"
    assert "67 MB are free in /dev/shm" in check.detail
    assert "--shm-size" in check.todo


def test_a_low_limit_on_open_files_fails() -> None:
    check = one("resources", resources=FakeResources(files=64))
    assert check.status == "fail"
    assert "a process may open 64 files" in check.detail
    assert "ulimit -n" in check.todo
