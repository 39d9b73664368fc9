"""Copies an export on a server to this machine, where trainings read it."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from ...errors import PlanError, ReadError, WriteError
from ...source.amounts import shown_bytes
from ...source.disk.cache_settings import EXPORTS, FOLDER_VARIABLE, cache_folder
from ...source.writing import atomic_file
from .export_files import DESCRIPTION, FILES

__all__ = ["local_export"]

_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Files that are copied side by side."""


def local_export(url: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the local copy of a complete export on a server; what is there already is not copied again.

    Copies are in ``exports`` in the folder of the disk cache, and stay until ``lsstcutouts cache clear``.

    Parameters
    ----------
    url
        Of its ``export.json``: ``https://``, ``s3://`` or what else ``lsst.resources`` opens.
    progress
        Called with the bytes that are copied and all bytes.

    Raises
    ------
    PlanError
        If the disk cache is off, or the export is not complete.
    ReadError
        If the server does not give a file.
    WriteError
        If the disk is full.
    """
    from lsst.resources import ResourcePath

    cache = cache_folder()
    if cache is None:
        raise PlanError(f"{url} is copied to the disk cache, which is off; set {FOLDER_VARIABLE} to a folder")
    root = ResourcePath(url.rstrip("/").removesuffix(DESCRIPTION), forceDirectory=True)
    shown = str(root)

    def get(name: str) -> bytes:
        try:
            return bytes(root.join(name, forceDirectory=False).read())
        except (OSError, ValueError) as error:
            raise ReadError(
                f"{shown}{name} cannot be read: {error}; check the URL, and that the export is complete"
            ) from error

    listed = get(FILES)
    state = hashlib.sha256(shown.encode() + listed).hexdigest()[:16]
    folder = cache / EXPORTS / state
    with _locked(folder.with_suffix(".lock")):  # the other ranks of this machine wait
        files: dict[str, int] = json.loads(listed)["files"]
        left = {name: size for name, size in files.items() if not _is_there(folder / name, size)}
        needed, free = sum(left.values()), _free(cache)
        if needed > free:
            raise WriteError(
                f"{shown} needs {shown_bytes(needed)} in {folder}, but only {shown_bytes(free)} are free; set {FOLDER_VARIABLE} to a"
                " folder on a larger disk"
            )
        if left:
            _log.warning("copying %s (%s) to %s", shown, shown_bytes(needed), folder)
        copied = 0

        def copy(name: str) -> int:
            source, target = root.join(name, forceDirectory=False), folder / name
            with atomic_file(target) as part:
                try:
                    ResourcePath(str(part), forceDirectory=False).transfer_from(source, "copy", overwrite=True)
                except (OSError, ValueError) as error:
                    raise ReadError(
                        f"{shown}{name} cannot be read: {error}; give the same command again to continue"
                    ) from error
                if part.stat().st_size != files[name]:
                    raise ReadError(f"{shown}{name} has {part.stat().st_size} bytes, not {files[name]}; export again")
            return files[name]

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for size in pool.map(copy, left):
                copied += size
                if progress is not None:
                    progress(copied, needed)
        with atomic_file(folder / FILES) as part:  # last: it says that the copy is complete
            part.write_bytes(listed)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file locked; the kernel unlocks it where a process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error}; set {FOLDER_VARIABLE} to a folder of yours") from error
    with file:
        flock(file, LOCK_EX)
        yield


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free
