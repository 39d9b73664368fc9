"""The control groups that hold this process, and how many cores they leave it."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["control_groups", "text_of", "usable_cores"]


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """Where control groups are mounted, and which of them is at the mount point."""

    base: Path
    root: str = "/"

    def groups(self, path: str) -> Iterator[Path]:
        """Yield the folders of a group, from its own up to the one that is mounted."""
        parts = Path(path).parts
        root = Path(self.root).parts
        inside = parts[len(root) :] if parts[: len(root)] == root else ()
        # Inside a container the path may name a group that is not mounted; its limit is then at the mount point.
        if ".." in inside:
            inside = ()
        for count in range(len(inside), -1, -1):
            yield self.base.joinpath(*inside[:count])


def control_groups(
    controller: str, *, proc: Path = Path("/proc"), cgroup: Path | None = None
) -> Iterator[tuple[int, Path]]:
    """Yield the control groups that hold this process, from its own up to the root.

    Parameters
    ----------
    controller
        Which of them: ``cpu`` or ``memory``.
    proc
        Where the kernel's process files are.
    cgroup
        Where control groups are mounted; by default what ``mountinfo`` of this process says.

    Yields
    ------
    int, Path
        Version of the control groups, 1 or 2, and the folder with the group's files.
    """
    second, first = _hierarchies(controller, proc / "self", cgroup)
    for line in text_of(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found = second if controllers == "" else first if controller in controllers.split(",") else []
        for hierarchy in found:
            for group in hierarchy.groups(path.strip()):
                yield (2 if found is second else 1), group


def usable_cores(*, proc: Path = Path("/proc"), cgroup: Path | None = None) -> int:
    """Return how many cores this process may use: its CPU affinity and the quota of its control groups limit them.

    The other parameters are those of `control_groups`. Jupyter servers of science platforms have a quota of a few cores of
    a large machine, where `os.cpu_count` and the affinity give all of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(version, group) for version, group in control_groups("cpu", proc=proc, cgroup=cgroup))
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota)]))


def _quota(version: int, group: Path) -> float:
    """Return the cores of a group's quota; 0 if it has none."""
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = " ".join(text_of(group / name) for name in names).split()  # "max 100000", or "-1 100000"
    quota, period = (int(word) if word.isdigit() else 0 for word in (*words, "0", "0")[:2])
    return quota / period if period else 0.0


def _hierarchies(controller: str, folder: Path, cgroup: Path | None) -> tuple[list[_Hierarchy], list[_Hierarchy]]:
    """Return the mounted hierarchies that may have a controller: those of version 2, those of version 1."""
    second: list[_Hierarchy] = []
    first: list[_Hierarchy] = []
    for line in text_of(folder / "mountinfo").splitlines() if cgroup is None else ():
        before, _, after = line.partition(" - ")
        where, what = before.split(), after.split()
        if len(where) < 5 or len(what) < 3:
            continue
        root, base = _unescaped(where[3]), Path(_unescaped(where[4]))
        if what[0] == "cgroup2":
            second.append(_Hierarchy(base, root))
        elif what[0] == "cgroup" and controller in what[2].split(","):
            first.append(_Hierarchy(base, root))
    if not second and not first:
        base = cgroup or Path("/sys/fs/cgroup")
        return [_Hierarchy(base), _Hierarchy(base / "unified")], [_Hierarchy(base / controller)]
    return second, first


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, in which spaces and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def text_of(path: Path) -> str:
    """Return the text of a small kernel file, empty where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
