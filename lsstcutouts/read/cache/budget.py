"""Budgets of memory: from what people write to bytes."""

from ...errors import ConfigurationError, MemoryBudgetError
from ...source.amounts import parse_bytes, shown_bytes
from ...source.limits import MemoryLimits, memory_limits

__all__ = ["check_budget", "parse_bytes", "resolve_budget", "shown_bytes"]

AUTO_SHARE = 0.25
"""Share of the available memory that ``"auto"`` takes.

The rest is for what grows beside the cache: the model, batches in flight, the page cache that makes a second
epoch's reads fast, and the other ranks or users of the machine.
"""

AUTO_MOST = 8_000_000_000
"""Bytes that ``"auto"`` never exceeds: 90 000 DP2 tiles, 15 whole patches in six bands, far more than the blocks
that are open at once; beyond it, memory serves better as page cache."""

_LEAST = 1_000_000


def check_budget(max_bytes: float | str) -> None:
    """Check that a budget is valid; the memory of this machine is not looked at.

    Raises
    ------
    ConfigurationError
        If it is not a number of bytes, a share in (0, 1], an amount such as ``"2 GB"``, or ``"auto"``.
    """
    if isinstance(max_bytes, str):
        if max_bytes != "auto":
            parse_bytes(max_bytes)
    elif isinstance(max_bytes, bool) or (isinstance(max_bytes, float) and not 0.0 < max_bytes <= 1.0) or max_bytes < 0:
        raise ConfigurationError(
            f"cache_bytes={max_bytes!r} must be a number of bytes, a fraction of the available memory in (0, 1], "
            "an amount such as '2 GB', or 'auto'"
        )


def resolve_budget(max_bytes: float | str, processes: int = 1, *, limits: MemoryLimits | None = None) -> int:
    """Return the bytes that each of ``processes`` gets of a budget.

    Parameters
    ----------
    max_bytes
        Whole bytes; an amount such as ``"2 GB"``; a share of the available memory as a float in (0, 1]; or
        ``"auto"``, a quarter of the available memory, at most 8 GB (`AUTO_SHARE` and `AUTO_MOST` say why). Available
        is the memory that this rank would have if the ranks on this machine took equal parts; an amount is that of
        each rank.
    processes
        How many processes of the rank share the budget.
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
    available = found.available // found.ranks
    if max_bytes == "auto":
        budget = min(int(AUTO_SHARE * available), AUTO_MOST)
    elif isinstance(max_bytes, str):
        budget = parse_bytes(max_bytes)
    elif isinstance(max_bytes, float):
        budget = int(max_bytes * available)
    else:
        budget = max_bytes
    if budget * found.ranks > found.total:
        each = f" in each of {found.ranks} ranks" if found.ranks > 1 else ""
        raise MemoryBudgetError(
            f"a cache of {shown_bytes(budget)}{each} is larger than the memory of {shown_bytes(found.total)} "
            f"(limited by the {found.limited_by}); use a smaller cache_bytes, or 'auto'"
        )
    return max(0 if max_bytes == 0 else _LEAST, budget // max(1, processes))
