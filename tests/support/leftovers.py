"""Count what a piece of code leaves behind: threads, processes, file descriptors, shared memory. Linux only.

The helpers of `multiprocessing` (the fork server and the resource tracker) live as long as the process and do not count.
"""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil

OWN = Path("/proc/self")


@dataclass(frozen=True)
class Held:
    """What this process holds, by name."""

    threads: frozenset[str]
    processes: frozenset[str]
    handles: frozenset[str]
    segments: frozenset[str]

    def beyond(self, other: "Held") -> dict[str, list[str]]:
        """Return what is here and not there; empty kinds are left out."""
        names = [field.name for field in fields(self)]
        return {n: sorted(more) for n in names if (more := getattr(self, n) - getattr(other, n))}


def helpers() -> set[int | None]:
    return {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}  # type: ignore[attr-defined]


def handles() -> Iterator[str]:
    for link in (OWN / "fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the one that lists the folder
            continue
        if not target.startswith("/proc/"):
            yield f"{link.name} {target}"


def held() -> Held:
    gc.collect()
    children = [p for p in psutil.Process().children(recursive=True) if p.pid not in helpers()]
    maps = [
        line.split(maxsplit=5)[-1].strip() for line in (OWN / "maps").read_text().splitlines() if "/dev/shm/" in line
    ]
    return Held(
        frozenset(f"{t.ident} {t.name}" for t in threading.enumerate()),
        frozenset(f"{p.pid}" for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE),
        frozenset(handles()),
        frozenset(maps),
    )


def left(before: Held, seconds: float = 5.0) -> dict[str, list[str]]:
    """Return what is still here and was not before, after waiting so long for it to go."""
    end = time.monotonic() + seconds
    while (more := held().beyond(before)) and time.monotonic() < end:
        time.sleep(0.05)
    return more


@contextmanager
def nothing_left(seconds: float = 10.0) -> Iterator[None]:
    """Fail where the block leaves something behind. Start method's helpers must have been started before."""
    before = held()
    yield
    more = left(before, seconds)
    assert not more, f"left after {seconds:g} s: {more}"
