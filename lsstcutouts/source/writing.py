"""Writes files atomically: a file appears complete or not at all."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LsstCutoutsError, WriteError

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it is renamed to ``path`` if the ``with`` block succeeds.

    Missing folders are created. If the block fails, the temporary file is removed.

    Parameters
    ----------
    path
        Final path of the file.
    private
        Whether only its owner may read it (mode 0600), even while it is written.

    Raises
    ------
    WriteError
        If the file cannot be written, for example on a full disk.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.uname().nodename}.{os.getpid()}.part")  # containers have equal pids
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if private:
            part.touch(0o600)
            part.chmod(0o600)  # touch does not change the mode of a leftover file
        yield part
        part.replace(target)
    except OSError as error:
        if isinstance(error, LsstCutoutsError):  # from the block, not from writing
            raise
        raise WriteError(
            f"{os.fspath(path)!r} cannot be written: {error}; check the folder, its permissions and the free disk space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
