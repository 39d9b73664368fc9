"""How much memory there is, and how budgets are read."""

from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.errors import ConfigurationError, MemoryBudgetError
from lsstcutouts.read.cache.budget import parse_bytes, resolve_budget
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.source.limits import MemoryLimits, available_memory, memory_limits


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
    with pytest.raises(
        MemoryBudgetError, match=r"200\.0 GB is larger than the memory of 4\.0 GB \(limited by the cgroup\)"
    ):
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


def test_cgroup_v2_high_slows_down_before_max_kills(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "cgroup/memory.max": 80 * MB,
            "cgroup/memory.high": 60 * MB,
            "cgroup/memory.current": 20 * MB,
        },
    )
    assert found(tmp_path) == MemoryLimits(40 * MB, 60 * MB, "cgroup")


def test_cgroup_v1_and_v2_side_by_side(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/a\n0::/b",
            "cgroup/memory/a/memory.limit_in_bytes": 80 * MB,
            "cgroup/memory/a/memory.usage_in_bytes": 10 * MB,
            "cgroup/unified/b/memory.max": 70 * MB,
            "cgroup/unified/b/memory.current": 20 * MB,
        },
    )
    assert found(tmp_path) == MemoryLimits(50 * MB, 70 * MB, "cgroup")


def test_a_group_deep_inside_a_container(tmp_path: Path) -> None:
    """The path names groups outside the container, of which mountinfo says how far they are hidden."""
    mount = tmp_path / "some where"
    escaped = str(mount).replace(" ", "\\040")
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc/jobs/mine",
            "proc/self/mountinfo": "30 1 0:4 / / rw shared:1 - ext4 /dev/sda rw\n"
            f"35 31 0:32 /docker/abc {escaped} rw,relatime master:9 - cgroup cgroup rw,memory",
            "some where/jobs/mine/memory.limit_in_bytes": 30 * MB,
            "some where/jobs/mine/memory.usage_in_bytes": 10 * MB,
            "some where/memory.limit_in_bytes": 90 * MB,
            "some where/memory.usage_in_bytes": 10 * MB,
        },
    )
    assert memory_limits(proc=tmp_path / "proc", environ={}) == MemoryLimits(20 * MB, 30 * MB, "cgroup")


def test_a_group_outside_the_namespace_counts_as_the_mounted_one(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../other",
            "other/memory.max": 1 * MB,
            "other/memory.current": 0,
            "cgroup/memory.max": 50 * MB,
            "cgroup/memory.current": 0,
        },
    )
    assert found(tmp_path).total == 50 * MB


@pytest.mark.parametrize(
    ("environ", "mebibytes"),
    [
        ({"SLURM_MEM_PER_GPU": "1024", "SLURM_GPUS_ON_NODE": "2"}, 2048),
        ({"SLURM_MEM_PER_GPU": "1024", "SLURM_GPUS_PER_NODE": "a100:3"}, 3072),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "6"}, 3072),
    ],
)
def test_slurm_memory_by_part(environ: dict[str, str], mebibytes: int, tmp_path: Path) -> None:
    limit = found(tmp_path, **environ)
    assert (limit.total, limit.limited_by) == (mebibytes * MB, "slurm")


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_NTASKS_PER_NODE": "8"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "3(x2),2"}, 3),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 8),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "0"}, 1),
        ({"LOCAL_WORLD_SIZE": "many"}, 1),
    ],
)
def test_ranks_on_this_machine(environ: dict[str, str], ranks: int, tmp_path: Path) -> None:
    assert found(tmp_path, **environ).ranks == ranks


def test_ranks_share_what_there_is() -> None:
    four = MemoryLimits(int(8e9), int(10e9), "slurm", ranks=4)
    assert resolve_budget("auto", limits=four) == 500_000_000
    assert resolve_budget(0.5, 2, limits=four) == 500_000_000
    assert resolve_budget("2 GB", limits=four) == 2_000_000_000  # an amount is that of each rank
    with pytest.raises(MemoryBudgetError, match=r"3\.0 GB in each of 4 ranks is larger than the memory of 10\.0 GB"):
        resolve_budget("3 GB", limits=four)
