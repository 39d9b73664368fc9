"""How much memory there is: the machine's, the control group's, the batch job's, and how many ranks share it."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from .control_groups import control_groups, text_of

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
class _Names:
    """Names of the files of a group that say what its memory is, and the prefix of its statistics."""

    most: tuple[str, ...]
    used: str
    prefix: str


# Above memory.high nothing is killed, but everything is slowed down until it holds less.
_NAMES = {
    2: _Names(("memory.max", "memory.high"), "memory.current", ""),
    1: _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
}
"""By version of control groups."""


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
    limits += _cgroup_limits(proc, cgroup)
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


def _cgroup_limits(proc: Path, cgroup: Path | None) -> Iterator[MemoryLimits]:
    """Yield the limits of the control groups that hold this process."""
    for version, group in control_groups("memory", proc=proc, cgroup=cgroup):
        yield from _group_limit(group, _NAMES[version])


def _group_limit(group: Path, names: _Names) -> Iterator[MemoryLimits]:
    """Yield the limits of one control group, if it has any."""
    limits = [n for name in names.most if (n := _number(group / name)) is not None and n < _NO_LIMIT]
    usage = _number(group / names.used)
    if not limits or usage is None:
        return
    lines = (line.split() for line in text_of(group / "memory.stat").splitlines())
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


def _number(path: Path) -> int | None:
    """Return the whole number in a file, or None."""
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None
