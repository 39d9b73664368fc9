"""The doctor on machines without enough memory, disk or files."""

import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lsstcutouts.app.doctor import Settings, resources
from lsstcutouts.source.limits import MemoryLimits, memory_limits

from ..support.doctor import GB, one

LIMITS = MemoryLimits(16 * GB, 16 * GB, "machine")

type Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with room for everything, except what is given; None is free where a folder cannot be written to."""

    def install(limits: MemoryLimits = LIMITS, files: int = 1024, **free: Any) -> None:
        for name in ("output", "temporary", "shm"):
            (tmp_path / name).touch() if free.get(name, 0) is None else (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        monkeypatch.setattr(resources, "_SHARED", tmp_path / "shm")
        monkeypatch.setattr(resources, "memory_limits", lambda: limits)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(path.name, 100 * GB)))
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

    return install


@pytest.mark.parametrize(
    ("settings", "available", "status", "words", "todo"),
    [
        ({}, {}, "pass", "16.0 GB of 16.0 GB memory free (limited by the machine)", ""),
        ({"cache_bytes": "100 TB"}, {}, "fail", "100000.0 GB", "cache_bytes"),
        ({"cache_bytes": "a lot"}, {}, "fail", "'a lot' is not an amount of memory", "setting"),
        ({}, {"output": None}, "fail", "cannot be written to", "output="),
        ({}, {"output": 50_000_000}, "fail", "50 MB free in the output folder", "output="),
        ({}, {"output": GB}, "warn", "checkpoints may fill it", "output="),
        ({}, {"temporary": 1_000_000}, "fail", "1 MB free in the temporary folder", "TMPDIR"),
        ({}, {"temporary": None}, "fail", "temporary cannot be written to", "TMPDIR"),
        ({}, {"shm": 64 << 20}, "pass", "", ""),
        ({"num_workers": 4}, {"shm": 64 << 20}, "fail", "67 MB are free in", "--shm-size"),
        ({}, {"files": 64}, "fail", "a process may open 64 files", "ulimit -n"),
        ({}, {"files": resource.RLIM_INFINITY}, "pass", "", ""),
    ],
)
def test_memory_disk_and_limits(
    settings: dict[str, Any], available: dict[str, Any], status: str, words: str, todo: str, machine: Machine
) -> None:
    machine(**available)
    result = one("resources", Settings(output="output", **settings))
    assert result.status == status
    assert words in result.detail
    assert todo in result.todo


def test_the_limit_of_a_control_group_counts(tmp_path: Path, machine: Machine) -> None:
    settings = Settings(cache_bytes="500 MB")
    machine()
    assert "150 MB" not in one("resources", settings).detail
    group = tmp_path / "cgroup" / "job"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/job\n")
    (group / "memory.max").write_text("600000000\n")
    (group / "memory.current").write_text("450000000\n")
    machine(memory_limits(proc=tmp_path, cgroup=tmp_path / "cgroup", environ={}))
    result = one("resources", settings)
    assert result.status == "fail"
    assert "150 MB of 600 MB memory free (limited by the cgroup)" in result.detail


@pytest.mark.parametrize(
    ("more", "status"), [({}, "pass"), ({"batch_size": 4096}, "fail"), ({"num_workers": 8}, "fail")]
)
def test_batches_and_workers_count_as_memory(more: dict[str, int], status: str, machine: Machine) -> None:
    machine(MemoryLimits(2 * GB, 16 * GB, "slurm"))
    result = one("resources", Settings(**{"cache_bytes": "500 MB", "batch_size": 16} | more))
    assert result.status == status
    assert ("of memory are needed" in result.detail) == (status == "fail")
