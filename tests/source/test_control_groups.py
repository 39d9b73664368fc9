"""How many cores the control groups leave a process; what memory they leave it is with `test_limits`."""

import os
from pathlib import Path

import pytest

from lsstcutouts.source.control_groups import usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/"}, 64),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "max 100000"}, 64),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "400000 100000"}, 4),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "350000 100000"}, 4),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "9900000 100000"}, 64),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "400000"}, 64),
        # A login node bounds each user, above the group of a session.
        (
            {
                "proc/self/cgroup": "0::/user.slice/session",
                "cgroup/user.slice/session/cpu.max": "max 100000",
                "cgroup/user.slice/cpu.max": "200000 100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/kubepods/pod/not/mounted/here",
                "cgroup/cpu/cpu.cfs_quota_us": 300_000,
                "cgroup/cpu/cpu.cfs_period_us": 100_000,
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/",
                "cgroup/cpu/cpu.cfs_quota_us": -1,
                "cgroup/cpu/cpu.cfs_period_us": 100_000,
            },
            64,
        ),
    ],
)
def test_the_quota_of_a_group_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str | int], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert usable_cores(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup") == cores


def test_this_process_has_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
