"""How much memory there is: the machine's, the control group's, the batch job's, and how many ranks share it."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

__all__ = ["MemoryLimits", "available_memory", "memory_limits"]

_RANKS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
"""Where torchrun, Open MPI and Slurm say how many processes of a job run on this machine; the first one counts."""

_NO_LIMIT = 2**60
"""Control groups of version 1 say "no limit" with a number near 2**63."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Memory that can still be taken before something is killed.

    Attributes
    ----------
    available
        Bytes, of all ranks together.
    total
        Bytes of the limit as a whole.
    limited_by
        What sets the limit: ``machine``, ``cgroup`` or ``slurm``.
    ranks
        Processes of one job on this machine that share it, without their worker processes.
    """

    available: int
    total: int
    limited_by: str
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """Where control groups are mounted, and the names of their files."""

    base: Path
    root: str
    most: tuple[str, ...]
    used: str
    prefix: str

    @classmethod
    def v2(cls, base: Path, root: str = "/") -> "_Hierarchy":
        # Above memory.high nothing is killed, but everything is slowed down until it holds less.
        return cls(base, root, ("memory.max", "memory.high"), "memory.current", "")

    @classmethod
    def v1(cls, base: Path, root: str = "/") -> "_Hierarchy":
        return cls(base, root, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")

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


def memory_limits(
    *,
    proc: Path = Path("/proc"),
    cgroup: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> MemoryLimits:
    """Return the tightest of the limits on this process.

    Parameters
    ----------
    proc
        Where the kernel's process files are.
    cgroup
        Where control groups are mounted; by default what ``mountinfo`` of this process says.
    environ
        Environment variables, those of Slurm, torchrun and Open MPI are looked at; by default this process's.
    """
    variables = os.environ if environ is None else environ
    machine = psutil.virtual_memory()
    ranks = _local_ranks(variables)
    limits = [MemoryLimits(int(machine.available), int(machine.total), "machine")]
    limits += _cgroup_limits(proc / "self", cgroup)
    limits += _slurm_limits(variables, ranks)
    return replace(min(limits, key=lambda limit: limit.available), ranks=ranks)


def available_memory() -> int:
    """Return the bytes that may still be taken, see `memory_limits`."""
    return memory_limits().available


def _local_ranks(environ: Mapping[str, str]) -> int:
    """Return how many ranks of this job run on this machine; Slurm writes ``4``, or ``4(x2),3`` for several machines."""
    for name in _RANKS:
        counts = [int(n) for n in re.findall(r"(?:^|,)(\d+)", environ.get(name, ""))]
        if counts:
            return max(1, *counts)
    return 1


def _hierarchies(folder: Path, cgroup: Path | None) -> tuple[list[_Hierarchy], list[_Hierarchy]]:
    """Return the mounted hierarchies that may limit memory: those of version 2, those of version 1."""
    second: list[_Hierarchy] = []
    first: list[_Hierarchy] = []
    for line in _text(folder / "mountinfo").splitlines() if cgroup is None else ():
        before, _, after = line.partition(" - ")
        where, what = before.split(), after.split()
        if len(where) < 5 or len(what) < 3:
            continue
        root, base = _unescaped(where[3]), Path(_unescaped(where[4]))
        if what[0] == "cgroup2":
            second.append(_Hierarchy.v2(base, root))
        elif what[0] == "cgroup" and "memory" in what[2].split(","):
            first.append(_Hierarchy.v1(base, root))
    if not second and not first:
        base = cgroup or Path("/sys/fs/cgroup")
        return [_Hierarchy.v2(base), _Hierarchy.v2(base / "unified")], [_Hierarchy.v1(base / "memory")]
    return second, first


def _cgroup_limits(folder: Path, cgroup: Path | None) -> Iterator[MemoryLimits]:
    """Yield the limits of the control groups that hold this process, from its own up to the root, v2 and v1."""
    second, first = _hierarchies(folder, cgroup)
    for line in _text(folder / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found = second if controllers == "" else first if "memory" in controllers.split(",") else []
        for hierarchy in found:
            for group in hierarchy.groups(path.strip()):
                yield from _group_limit(group, hierarchy)


def _group_limit(group: Path, names: _Hierarchy) -> Iterator[MemoryLimits]:
    """Yield the limits of one control group, if it has any."""
    limits = [n for name in names.most if (n := _number(group / name)) is not None and n < _NO_LIMIT]
    usage = _number(group / names.used)
    if not limits or usage is None:
        return
    lines = (line.split() for line in _text(group / "memory.stat").splitlines())
    statistics = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    # File pages count as used, yet the kernel gives them back on demand: reading coadds fills them all the time.
    files = sum(statistics.get(names.prefix + name, 0) for name in ("inactive_file", "active_file"))
    limit = min(limits)
    yield MemoryLimits(max(0, limit - max(0, usage - files)), limit, "cgroup")


def _slurm_limits(environ: Mapping[str, str], ranks: int) -> Iterator[MemoryLimits]:
    """Yield what a Slurm job asked for on this machine, less what its ranks hold if they are all like this process."""
    total = _slurm_total(environ)
    if total:
        held = ranks * int(psutil.Process().memory_info().rss)
        yield MemoryLimits(max(0, total - held), total, "slurm")


def _slurm_total(environ: Mapping[str, str]) -> int:
    """Return the bytes that a Slurm job may take on this machine, 0 where it may take all; the variables are in MiB."""

    def number(name: str) -> int:
        # A count may follow a type: gpu:a100:4
        text = environ.get(name, "").rpartition(":")[2]
        return int(text) if text.isdigit() else 0

    gpus = number("SLURM_GPUS_ON_NODE") or number("SLURM_GPUS_PER_NODE")
    # Slurm sets one of the three; SLURM_MEM_PER_NODE=0 asks for all the memory of a machine.
    mebibytes = (
        number("SLURM_MEM_PER_NODE")
        or number("SLURM_MEM_PER_CPU") * number("SLURM_CPUS_ON_NODE")
        or number("SLURM_MEM_PER_GPU") * gpus
    )
    return mebibytes << 20


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, in which spaces and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _number(path: Path) -> int | None:
    """Return the whole number in a file, or None."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Return the text of a small kernel file, empty where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
