"""Check of memory, disk and limits of the system against the settings."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ...errors import MemoryBudgetError
from ...read.cache.budget import resolve_budget, shown_bytes
from ...read.reader import default_threads
from ...source.limits import memory_limits
from .diagnosis import Result, Settings

__all__ = ["check_resources"]

_SHARED = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is mounted, not a place for scratch files
_WORKER_BYTES = 300_000_000  # Python, torch and astropy in a worker process (measured, without shared pages)
_QUEUED = 3  # batches of each worker in shared memory: a `DataLoader` asks for two in advance, one is in use
_DISK_LEAST = 100_000_000  # free bytes of a folder; nothing works with less
_OUTPUT_ENOUGH = 2_000_000_000  # bytes, for most logs, pictures and checkpoints
_FILES = 256  # that one process opens: 192 coadds and what Python, torch and the terminal hold
_TENSORS = 16  # of a batch; each is one open file on its way from a worker


def check_resources(settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check that memory, disk, shared memory and open files suffice for the cache, the batches and the workers."""
    limits, workers, batch = memory_limits(), settings.num_workers, settings.batch_bytes
    processes = max(1, workers)
    try:
        cache = processes * resolve_budget(settings.cache_bytes, processes, limits=limits)
    except MemoryBudgetError as error:
        yield Result("fail", str(error), "give a smaller cache_bytes, or cache_bytes=auto")
        return
    queued = workers * _QUEUED * batch
    # Each process reads ahead; it fills one more batch, and hands one over. One is in use.
    batches = (processes * (max(2, default_threads() // processes) + 2) + 1) * batch + queued
    needed = cache + batches + workers * _WORKER_BYTES
    parts = f"cache {shown_bytes(cache)}, batches {shown_bytes(batches)}"
    parts += f", workers {shown_bytes(workers * _WORKER_BYTES)}" if workers else ""
    memory = f"{shown_bytes(limits.available)} of {shown_bytes(limits.total)} memory free"
    memory += f" (limited by the {limits.limited_by})"
    if needed > limits.available:
        todo = "give a smaller cache_bytes, batch_size, size or num_workers, or ask for more memory"
        yield Result("fail", f"{shown_bytes(needed)} of memory are needed ({parts}), {memory}", todo)
    else:
        yield Result("pass", f"{memory}, {shown_bytes(needed)} needed ({parts})")

    yield _folder("output", Path(settings.output).absolute(), "give another output=", enough=_OUTPUT_ENOUGH)
    yield _folder("temporary", Path(tempfile.gettempdir()), "set TMPDIR to another folder", enough=_DISK_LEAST)

    if queued and _SHARED.is_dir() and (free := shutil.disk_usage(_SHARED).free) < queued:
        detail = f"{workers} workers pass {shown_bytes(queued)} of batches through shared memory, "
        todo = "give num_workers=0 (threads, the fastest), or start the container with a larger --shm-size"
        yield Result("fail", f"{detail}{shown_bytes(free)} are free in {_SHARED}", todo)
    files, (most, _) = _FILES + workers * _TENSORS * _QUEUED, resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < files:
        todo = f"run ulimit -n {max(4096, files)} in the shell that starts it"
        yield Result("fail", f"a process may open {most} files, {files} are needed", todo)


def _folder(kind: str, folder: Path, todo: str, *, enough: int) -> Result:
    """Return whether a folder, or the one where it will be made, can be written to and has enough free bytes."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Result("fail", f"the {kind} folder {folder} cannot be written to", todo)
    free = shutil.disk_usage(existing).free
    detail, todo = f"{shown_bytes(free)} free in the {kind} folder {folder}", f"make room there, or {todo}"
    if free < _DISK_LEAST:
        return Result("fail", detail, todo)
    if free < enough:
        return Result("warn", f"{detail}, checkpoints may fill it", todo)
    return Result("pass", detail)
