"""The seventh check: memory, disk and limits of the system against what is configured."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import MemoryBudgetError
from ...read.cache.budget import resolve_budget
from ...read.cache.limits import MemoryLimits, memory_limits
from ...read.reader import default_threads
from .check import Check, Finding, Settings, Visit

__all__ = ["ThisMachine", "check_resources", "needs"]

_SHARED = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is mounted, not a place for scratch files

WORKER_BYTES = 300_000_000
"""Memory of a worker process beside its cache and batches: Python, torch and astropy (measured, shared pages left out)."""

_PREFETCHED = 2
"""Batches that a `DataLoader` asks of each worker in advance."""

_OUTPUT_LEAST, _OUTPUT_ENOUGH = 100_000_000, 2_000_000_000
"""Bytes of disk for logs, pictures and checkpoints: less than the first cannot work, the second is enough for most."""

_TEMPORARY_LEAST = 100_000_000

_FILES = 256
"""Files that one process may open: 192 coadds and what Python, torch and the terminal hold."""

_TENSORS = 16
"""Tensors of a batch; each is one open file on its way from a worker."""


class ThisMachine:
    """The machine that this process runs on."""

    def memory(self) -> MemoryLimits:
        """Return the tightest limit on memory."""
        return memory_limits()

    def disk(self, folder: Path) -> int | None:
        """Return free bytes where a folder is or will be; None where nothing may be written."""
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            return None
        return shutil.disk_usage(existing).free

    def temporary(self) -> Path:
        """Return the folder of temporary files."""
        return Path(tempfile.gettempdir())

    def shared(self) -> int | None:
        """Return free bytes of shared memory between processes; None where it is not limited by itself."""
        return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None

    def open_files(self) -> int:
        """Return how many files a process may open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft if soft != resource.RLIM_INFINITY else 2**63 - 1


@dataclass(frozen=True, slots=True)
class Needs:
    """What the settings take.

    Attributes
    ----------
    cache
        Bytes of the tile cache, all processes together.
    batches
        Bytes of batches under way.
    workers
        Bytes of worker processes themselves.
    shared
        Bytes of batches in shared memory.
    open_files
        In the main process.
    """

    cache: int
    batches: int
    workers: int
    shared: int
    open_files: int

    @property
    def memory(self) -> int:
        """Bytes, all together."""
        return self.cache + self.batches + self.workers


def needs(settings: Settings, limits: MemoryLimits, threads: int) -> Needs:
    """Return what the settings take on a machine with these limits and so many threads.

    Raises
    ------
    MemoryBudgetError
        If the cache alone is more than there is.
    ConfigurationError
        If ``cache_bytes`` cannot be understood.
    """
    workers, size = settings.num_workers, settings.batch_bytes
    processes = max(1, workers)
    # Ahead of the loop, as `CutoutDataset` reads; one more is being filled, one is handed over.
    ahead = max(2, threads // processes) + 2
    shared = workers * (_PREFETCHED + 1) * size
    return Needs(
        cache=processes * resolve_budget(settings.cache_bytes, processes, limits=limits),
        batches=(processes * ahead + 1) * size + shared,
        workers=workers * WORKER_BYTES,
        shared=shared,
        open_files=_FILES + workers * _TENSORS * (_PREFETCHED + 1),
    )


def check_resources(visit: Visit) -> Check:
    """Memory, disk, shared memory and open files suffice for the cache, the batches and the workers."""
    there = visit.machine.resources or ThisMachine()
    settings, limits = visit.settings, there.memory()
    try:
        needed = needs(settings, limits, default_threads())
    except MemoryBudgetError as error:
        return Check.of("resources", [Finding("fail", str(error), "give a smaller cache_bytes, or cache_bytes=auto")])
    findings = [_memory(needed, limits), *_disk(settings, there), *_workers(settings, needed, there)]
    return Check.of("resources", findings)


def _memory(needed: Needs, limits: MemoryLimits) -> Finding:
    parts = f"cache {_size(needed.cache)}, batches {_size(needed.batches)}"
    if needed.workers:
        parts += f", workers {_size(needed.workers)}"
    there = f"{_size(limits.available)} of {_size(limits.total)} memory free (limited by the {limits.limited_by})"
    if needed.memory > limits.available:
        return Finding(
            "fail",
            f"{_size(needed.memory)} of memory are needed ({parts}), {there}",
            "give a smaller cache_bytes, batch_size, size or num_workers, or ask for more memory",
        )
    return Finding("pass", f"{there}, {_size(needed.memory)} needed ({parts})")


def _disk(settings: Settings, there: ThisMachine) -> Iterator[Finding]:
    places = {"output": Path(settings.output).absolute(), "temporary": there.temporary()}
    for kind, folder in places.items():
        free = there.disk(folder)
        if free is None:
            todo = "give another output=" if kind == "output" else "set TMPDIR to a folder that you may write to"
            yield Finding("fail", f"the {kind} folder {folder} cannot be written to", todo)
        else:
            yield _free_disk(kind, folder, free)


def _free_disk(kind: str, folder: Path, free: int) -> Finding:
    detail = f"{_size(free)} free in the {kind} folder {folder}"
    todo = "make room there, or give another output=" if kind == "output" else "make room there, or set TMPDIR"
    if free < (_OUTPUT_LEAST if kind == "output" else _TEMPORARY_LEAST):
        return Finding("fail", detail, todo)
    if kind == "output" and free < _OUTPUT_ENOUGH:
        return Finding("warn", f"{detail}, checkpoints may fill it", todo)
    return Finding("pass", detail)


def _workers(settings: Settings, needed: Needs, there: ThisMachine) -> Iterator[Finding]:
    shared, files = there.shared(), there.open_files()
    if needed.shared and shared is not None and shared < needed.shared:
        yield Finding(
            "fail",
            f"{settings.num_workers} workers pass {_size(needed.shared)} of batches through shared memory, "
            f"{_size(shared)} are free in {_SHARED}",
            "give num_workers=0 (threads, the fastest), or start the container with a larger --shm-size",
        )
    if files < needed.open_files:
        yield Finding(
            "fail",
            f"a process may open {files} files, {needed.open_files} are needed",
            "run ulimit -n 4096 in the shell that starts it",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
