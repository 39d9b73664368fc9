"""A lock that a forked process can acquire."""

import os
import threading
import weakref
from types import TracebackType

__all__ = ["ForkLock"]


class ForkLock:
    """A lock that is unlocked in a forked process, even if a thread of the parent held it during the fork.

    An ordinary lock would stay locked there forever, since the thread that holds it does not exist in the child.
    The protected data must be valid even if a thread was interrupted while it held the lock.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _LIVE.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock with an unlocked one."""
        self._lock = threading.Lock()


_LIVE: "weakref.WeakSet[ForkLock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_LIVE):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
