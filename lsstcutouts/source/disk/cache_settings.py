"""Settings of the disk cache, from the environment."""

import os
from pathlib import Path

from ...errors import ConfigurationError
from ..amounts import parse_bytes

__all__ = ["BUDGET_VARIABLE", "EXPORTS", "FOLDER_VARIABLE", "cache_budget", "cache_folder"]

FOLDER_VARIABLE = "LSSTCUTOUTS_CACHE"
BUDGET_VARIABLE = "LSSTCUTOUTS_CACHE_BYTES"

EXPORTS = "exports"
"""Folder in that of the cache for copies of exports on servers, which the budget does not count."""

_OFF = {"", "0", "none", "off"}


def cache_folder() -> Path | None:
    """Return the folder of the disk cache, or None if it is off.

    It is ``LSSTCUTOUTS_CACHE``, else ``lsstcutouts`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    Raises
    ------
    RuntimeError
        There is no home directory.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    if given is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lsstcutouts"
    return None if given.strip().lower() in _OFF else Path(given).expanduser()


def cache_budget() -> int | None:
    """Return the bytes that ``LSSTCUTOUTS_CACHE_BYTES`` gives, or None if it is not set.

    Raises
    ------
    ConfigurationError
        It is not a number of bytes.
    """
    given = os.environ.get(BUDGET_VARIABLE, "").strip()
    try:
        return parse_bytes(given) if given else None
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{BUDGET_VARIABLE}={given!r} is not a number of bytes; use for example '20 GB'"
        ) from error
