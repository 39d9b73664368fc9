"""Limits of requests to web servers: time, and number at once."""

import os
from dataclasses import dataclass

__all__ = ["TimeLimits", "connections", "share_connections"]

_CONNECTIONS = "LSSTCUTOUTS_CONNECTIONS"
_RANKS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
"""Number of processes of a job on this machine, as torchrun, Open MPI and Slurm say it."""

_shares: dict[int, int] = {}
"""Number of worker processes that share the connections of their rank, by process."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits of requests, seconds.

    Attributes
    ----------
    connect
        To connect.
    idle
        Without a byte of an answer.
    patience
        How long a server may give no answer at all to anyone before reading ends with an error.
    """

    connect: float = 10.0
    idle: float = 30.0
    patience: float = 600.0

    @classmethod
    def from_environment(cls) -> "TimeLimits":
        """Return the limits of ``LSST_HTTP_TIMEOUT_CONNECT``, ``LSST_HTTP_TIMEOUT_READ`` and ``LSSTCUTOUTS_PATIENCE``.

        A variable that is not set, or not a number of seconds, leaves the default.
        """
        connect = _seconds("LSST_HTTP_TIMEOUT_CONNECT") or cls().connect
        idle = _seconds("LSST_HTTP_TIMEOUT_READ") or cls().idle
        return cls(connect, idle, _seconds("LSSTCUTOUTS_PATIENCE") or cls().patience)


def connections() -> int:
    """Return how many requests this process may send at once, at least 2.

    ``LSSTCUTOUTS_CONNECTIONS`` is the bound of the machine, 64 by default; the processes of a job and their workers take
    equal parts.
    """
    text = os.environ.get(_CONNECTIONS, "")
    most = int(text) if text.isdigit() and int(text) > 0 else 64
    ranks = next((int(count) for name in _RANKS if (count := os.environ.get(name, "")).isdigit()), 1)
    return max(2, most // (max(1, ranks) * _shares.get(os.getpid(), 1)))


def share_connections(processes: int) -> None:
    """Take only this process's part of the connections, as one of so many worker processes."""
    _shares[os.getpid()] = max(1, processes)


def _seconds(variable: str) -> float | None:
    """Return a number of seconds from an environment variable; None if it is not set or invalid."""
    try:
        seconds = float(os.environ.get(variable, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
