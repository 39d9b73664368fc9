"""What the command ``lsstcutouts cache`` does: show, clear and check the disk cache."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from .cache_settings import EXPORTS, cache_budget
from .claims import CLAIMS
from .figures import USE_LOGS, DiskCacheFigures, logged_use
from .records import FORMAT, decode_records
from .segments import budget_bytes, list_segments, remove_segment

__all__ = ["CheckResult", "check", "clear", "summary"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What `check` found.

    Attributes
    ----------
    segments, records
        How many were read.
    damaged
        Records with a wrong CRC, or that the disk cannot read.
    removed
        Segments that were removed, since they hold damaged records.
    """

    segments: int
    records: int
    damaged: int
    removed: int


def summary(folder: Path) -> DiskCacheFigures:
    """Return what a cache holds, and what all processes did with it, as far as they have logged it.

    Parameters
    ----------
    folder
        Folder of the cache, as `~lsstcutouts.source.disk.cache_settings.cache_folder` gives it.
    """
    inner = folder / FORMAT
    segments = list_segments(inner)
    held = sum(one.nbytes for one in segments)
    keys: set[bytes] = set()
    for one in segments:
        keys.update(key for key, *_ in _records(inner, one.name))
    return DiskCacheFigures(
        held, len(keys), len(segments), budget_bytes(inner, cache_budget(), held), **logged_use(inner)
    )


def clear(folder: Path) -> int:
    """Remove all that caches of any version wrote to a folder, and return their bytes.

    Processes that use the cache continue, and fetch again what they need.
    """
    freed = 0
    for inner in folder.glob("ranges-*"):
        for one in list_segments(inner):
            remove_segment(inner, one.name)
            freed += one.nbytes
        for path in [*(inner / CLAIMS).glob("*"), *(inner / name for name in USE_LOGS)]:
            path.unlink(missing_ok=True)
        for empty in (inner / CLAIMS, inner):
            with suppress(OSError):  # files of others, or a segment that was begun just now
                empty.rmdir()
    exports = folder / EXPORTS
    freed += sum(path.stat().st_size for path in exports.rglob("*") if path.is_file())
    shutil.rmtree(exports, ignore_errors=True)
    return freed


def check(folder: Path, progress: Callable[[int, int], None] | None = None) -> CheckResult:
    """Check the CRC of everything in a cache, and remove segments that hold damaged records.

    Parameters
    ----------
    folder
        Folder of the cache.
    progress
        Called after each segment with the bytes that are checked and the bytes of all segments.
    """
    inner = folder / FORMAT
    segments = list_segments(inner)
    total = sum(one.nbytes for one in segments)
    done = records = damaged = removed = 0
    for one in segments:
        wrong = 0
        try:
            with (inner / f"{one.name}.seg").open("rb") as file:
                for _, _, length, position, crc, _ in _records(inner, one.name):
                    file.seek(position)
                    wrong += crc32(file.read(length)) != crc
                    records += 1
        except FileNotFoundError:
            pass  # another process removed it
        except OSError:
            wrong += 1
        if wrong:
            remove_segment(inner, one.name)
        damaged, removed, done = damaged + wrong, removed + bool(wrong), done + one.nbytes
        if progress is not None:
            progress(done, total)
    return CheckResult(len(segments), records, damaged, removed)


def _records(folder: Path, name: str) -> list[tuple[bytes, int, int, int, int, int]]:
    """Return the records of a segment, none if another process removed it."""
    with suppress(FileNotFoundError):
        records: list[tuple[bytes, int, int, int, int, int]]
        records = decode_records((folder / f"{name}.idx").read_bytes())[0].tolist()
        return records
    return []
