"""How much memory this process may still take: the machine's, its control group's, its batch job's."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from lsstcutouts.errors import ConfigurationError, MemoryBudgetError

__all__ = ["MemoryLimits", "available_memory", "memory_limits", "parse_bytes", "resolve_budget"]

AUTO_SHARE = 0.25
"""Share of the available memory that ``"auto"`` takes.

The rest is for what grows beside the cache: the model, batches in flight, the page cache that makes a second
epoch's reads fast, and the other ranks or users of the machine.
"""

AUTO_MOST = 8_000_000_000
"""Bytes that ``"auto"`` never exceeds: 90 000 DP2 tiles, 15 whole patches in six bands, far more than the blocks
that are open at once; beyond it, memory serves better as page cache."""

_LEAST = 1_000_000
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?)?b?(?:ytes)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Memory that can still be taken before something is killed.

    Attributes
    ----------
    available
        Bytes.
    total
        Bytes of the limit as a whole.
    limited_by
        What sets the limit: ``machine``, ``cgroup`` or ``slurm``.
    """

    available: int
    total: int
    limited_by: str


def memory_limits(
    *,
    proc: Path = Path("/proc"),
    cgroup: Path = Path("/sys/fs/cgroup"),
    environ: Mapping[str, str] | None = None,
) -> MemoryLimits:
    """Return the tightest of the limits on this process.

    Parameters
    ----------
    proc, cgroup
        Where the kernel's process and control group files are.
    environ
        Environment variables, those of Slurm are looked at; by default this process's.
    """
    machine = psutil.virtual_memory()
    limits = [MemoryLimits(int(machine.available), int(machine.total), "machine")]
    limits += _cgroup_limits(proc / "self" / "cgroup", cgroup)
    limits += _slurm_limits(os.environ if environ is None else environ)
    return min(limits, key=lambda limit: limit.available)


def available_memory() -> int:
    """Return the bytes that this process may still take, see `memory_limits`."""
    return memory_limits().available


def parse_bytes(amount: str) -> int:
    """Return the bytes that a text such as ``"2 GB"`` or ``"500 MiB"`` stands for.

    Raises
    ------
    ConfigurationError
        The text is no amount of memory.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise ConfigurationError(f"{amount!r} is no amount of memory; say for example '2 GB' or '500 MiB'")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


def check_budget(max_bytes: float | str) -> None:
    """Raise for a budget that cannot be understood, without looking at the machine.

    Raises
    ------
    ConfigurationError
        Not a number of bytes, a share in (0, 1], an amount such as ``"2 GB"``, or ``"auto"``.
    """
    if isinstance(max_bytes, str):
        if max_bytes != "auto":
            parse_bytes(max_bytes)
    elif isinstance(max_bytes, bool) or (isinstance(max_bytes, float) and not 0.0 < max_bytes <= 1.0) or max_bytes < 0:
        raise ConfigurationError(
            f"a memory budget of {max_bytes!r}: give whole bytes, a share of the available memory in (0, 1], "
            "an amount such as '2 GB', or 'auto'"
        )


def resolve_budget(max_bytes: float | str, processes: int = 1, *, limits: MemoryLimits | None = None) -> int:
    """Return the bytes that each of ``processes`` gets of a budget.

    Parameters
    ----------
    max_bytes
        Whole bytes; an amount such as ``"2 GB"``; a share of the available memory as a float in (0, 1]; or
        ``"auto"``, a quarter of the available memory, at most 8 GB (`AUTO_SHARE` and `AUTO_MOST` say why).
    processes
        How many processes share the budget.
    limits
        The memory there is; by default as it is now.

    Raises
    ------
    ConfigurationError
        The budget cannot be understood.
    MemoryBudgetError
        More than the memory that there is.
    """
    check_budget(max_bytes)
    found = memory_limits() if limits is None else limits
    if max_bytes == "auto":
        budget = min(int(AUTO_SHARE * found.available), AUTO_MOST)
    elif isinstance(max_bytes, str):
        budget = parse_bytes(max_bytes)
    elif isinstance(max_bytes, float):
        budget = int(max_bytes * found.available)
    else:
        budget = max_bytes
    if budget > found.total:
        raise MemoryBudgetError(
            f"a cache of {budget / 1e9:.1f} GB, but there are {found.total / 1e9:.1f} GB in all "
            f"(limited by the {found.limited_by}); give less, or 'auto'"
        )
    return max(0 if max_bytes == 0 else _LEAST, budget // max(1, processes))


def _cgroup_limits(membership: Path, root: Path) -> Iterator[MemoryLimits]:
    """Yield the limits of the control groups that hold this process, from its own up to the root, v2 and v1."""
    for line in _text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, most, used, prefix = root, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            base, most, used, prefix = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        group = base / path.strip().lstrip("/")
        # Inside a container the path may name a group that is not mounted; its limit is then at the root.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield from _group_limit(folder, most, used, prefix)


def _group_limit(folder: Path, most: str, used: str, prefix: str) -> Iterator[MemoryLimits]:
    """Yield the limit of one control group, if it has one."""
    limit, usage = _number(folder / most), _number(folder / used)
    # v1 says "no limit" with a number near 2**63, v2 with "max".
    if limit is None or usage is None or limit >= 2**60:
        return
    statistics = dict(line.split() for line in _text(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    # File pages count as used, yet the kernel gives them back on demand: reading coadds fills them all the time.
    files = sum(int(statistics.get(prefix + name, "0")) for name in ("inactive_file", "active_file"))
    yield MemoryLimits(max(0, limit - max(0, usage - files)), limit, "cgroup")


def _slurm_limits(environ: Mapping[str, str]) -> Iterator[MemoryLimits]:
    """Yield what a Slurm job asked for, less what this process holds; Slurm's variables are in MiB."""
    per_node = environ.get("SLURM_MEM_PER_NODE", "")
    per_cpu, cpus = environ.get("SLURM_MEM_PER_CPU", ""), environ.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit() and int(per_node) > 0:
        total = int(per_node) << 20
    elif per_cpu.isdigit() and cpus.isdigit() and int(per_cpu) * int(cpus) > 0:
        total = int(per_cpu) * int(cpus) << 20
    else:
        return
    held = int(psutil.Process().memory_info().rss)
    yield MemoryLimits(max(0, total - held), total, "slurm")


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
