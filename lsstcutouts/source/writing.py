"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import WriteError

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Give another name to write under; what was written takes its place when the block ends without an error.

    Folders are made as needed. Nothing is left behind by a block that fails.

    Parameters
    ----------
    path
        Where the file is to be.
    private
        Whether only its owner may read it (mode 0600), from before it is written.

    Raises
    ------
    WriteError
        If the file cannot be written, such as on a full disk.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if private:
            part.touch(0o600)
            part.chmod(0o600)  # one that was left there keeps its mode
        yield part
        part.replace(target)
    except OSError as error:
        raise WriteError(f"cannot write {os.fspath(path)!r}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
