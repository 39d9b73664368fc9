"""How much memory there is, and how budgets are read."""

from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.cache import MemoryLimits, TileCache, available_memory, memory_limits, parse_bytes, resolve_budget
from lsstcutouts.errors import ConfigurationError, MemoryBudgetError


def limits(available: float, total: float = 100e9, limited_by: str = "machine") -> MemoryLimits:
    return MemoryLimits(int(available), int(total), limited_by)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("17", 17),
        ("2 GB", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("500 MiB", 500 << 20),
        ("1.5 kB", 1500),
        ("0.5 TiB", 1 << 39),
        (" 10 k ", 10_000),
        ("3 bytes", 3),
    ],
)
def test_amounts(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("wrong", ["", "two GB", "-1 GB", "1 XB", "1,5 GB", -1, 1.5, 0.0, -0.25, True, float("nan")])
def test_wrong_budgets(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"2 GB"):
        TileCache(wrong)


def test_budgets() -> None:
    assert resolve_budget("auto", limits=limits(10e9)) == 2_500_000_000
    assert resolve_budget("auto", limits=limits(90e9)) == 8_000_000_000
    assert resolve_budget("auto", 4, limits=limits(90e9)) == 2_000_000_000
    assert resolve_budget(0.5, 2, limits=limits(10e9)) == 2_500_000_000
    assert resolve_budget("3 GB", 3, limits=limits(10e9)) == 1_000_000_000
    assert resolve_budget(12345678, limits=limits(10e9)) == 12345678
    assert resolve_budget(0, limits=limits(10e9)) == 0
    with pytest.raises(MemoryBudgetError, match=r"200\.0 GB, but there are 4\.0 GB in all \(limited by the cgroup\)"):
        resolve_budget("200 GB", limits=limits(1e9, 4e9, "cgroup"))


def tree(root: Path, files: dict[str, str | int]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def found(root: Path, **environ: str) -> MemoryLimits:
    return memory_limits(proc=root / "proc", cgroup=root / "cgroup", environ=environ)


MB = 1 << 20


def test_cgroup_v2_from_the_own_group_up(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/mine",
            "cgroup/jobs/mine/memory.max": "max",
            "cgroup/jobs/mine/memory.current": 30 * MB,
            "cgroup/jobs/memory.max": 100 * MB,
            "cgroup/jobs/memory.current": 70 * MB,
            "cgroup/jobs/memory.stat": f"anon 5\ninactive_file {8 * MB}\nactive_file {2 * MB}",
        },
    )
    # Of 70 MB, 10 are pages of files, which the kernel gives back.
    assert found(tmp_path) == MemoryLimits(40 * MB, 100 * MB, "cgroup")


def test_cgroup_v2_inside_a_container(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/not/mounted/here",
            "cgroup/memory.max": 50 * MB,
            "cgroup/memory.current": 60 * MB,
        },
    )
    assert found(tmp_path) == MemoryLimits(0, 50 * MB, "cgroup")


def test_cgroup_v1(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job/7\n0::/",
            "cgroup/memory/job/7/memory.limit_in_bytes": 80 * MB,
            "cgroup/memory/job/7/memory.usage_in_bytes": 50 * MB,
            "cgroup/memory/job/7/memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MB}",
            "cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "cgroup/memory/memory.usage_in_bytes": 1,
        },
    )
    assert found(tmp_path) == MemoryLimits(50 * MB, 80 * MB, "cgroup")


def test_slurm(tmp_path: Path) -> None:
    per_node = found(tmp_path, SLURM_MEM_PER_NODE="2048")
    assert per_node.limited_by == "slurm"
    assert per_node.total == 2048 * MB
    assert 0 < per_node.available < per_node.total
    assert found(tmp_path, SLURM_MEM_PER_CPU="1024", SLURM_CPUS_ON_NODE="2").total == 2048 * MB
    # 0 asks for all the memory of a node.
    assert found(tmp_path, SLURM_MEM_PER_NODE="0").limited_by == "machine"


def test_without_any_limit_the_machine_counts(tmp_path: Path) -> None:
    assert found(tmp_path).limited_by == "machine"
    assert found(tmp_path).available > 0
    assert available_memory() > 0
