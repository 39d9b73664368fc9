"""Checks of remote files: the server signs their URLs, their store is fast enough, and what is read can be kept on the disk."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from urllib.parse import urljoin, urlsplit

import numpy as np
import psutil

from ...errors import LsstCutoutsError, ReadTimeoutError
from ...errors.error_classes import error_text
from ...errors.secrets import expiry_of
from ...plan.locations import LocatedFile
from ...plan.repository import Repository, as_names
from ...source.access import butler_token, is_permanent
from ...source.amounts import shown_bytes
from ...source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE, cache_budget, cache_folder
from ...source.disk.upkeep import summary
from ...source.remote import HttpSource
from ...source.web.answers import AnswerError
from ...source.web.byte_parts import URGENT, Part
from ...source.web.process import figures_of_process
from ...source.web.request_limits import connections
from .diagnosis import Result, Settings
from .server_checks import ask, refused

__all__ = ["check_access", "check_disk", "check_store"]

_MEASURED_BYTES, _MEASURED_SECONDS = 4 << 20, 2.0
_FIRST_SECONDS = 10.0  # for the first bytes: a signature, a connection, and the start of an answer
_PIECE = 128 << 10
_PROBE = 64
_SLOW = 1e6  # bytes per second
_NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smbfs", "afs", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "fuse.sshfs"}
_NO_BYTES = "check that this machine may connect to it: the files lie there, not on the Butler server; behind a proxy set HTTPS_PROXY"


def check_access(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that the server signs the URL of a file, which needs the scope ``read:image``."""
    permanent = [one for one in _samples(settings, stack) if is_permanent(one.uri)]
    if not permanent:
        return
    one = permanent[0]
    answer = ask(one.uri, butler_token(one.uri)).answer
    target, what = answer.headers.get("Location", ""), f"tract {one.tract}, patch {one.patch}, band {one.band}"
    if answer.status_code in {401, 403}:
        yield refused(answer)
    elif not target:
        detail = f"{error_text(AnswerError(answer))}, instead of a URL of the file of {what}"
        yield Result("fail", detail, "try again later, or ask the operators of the server")
    else:
        url = urljoin(one.uri, target)
        expiry = expiry_of(url)
        valid = "" if expiry is None else f", valid for {(expiry - answer.time) / 60:.0f} min and renewed before that"
        yield Result("pass", f"the server signs URLs of {urlsplit(url).hostname} (scope read:image){valid}")


def check_store(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Measure the rate and latency of the store of the files, with at most 4 MB and for at most 2 s."""
    samples = [one for one in _samples(settings, stack) if one.uri.startswith(("http", "dav", "s3:"))]
    if not samples:
        return
    try:
        yield _measured(samples)
    except LsstCutoutsError as error:
        yield Result("fail", str(error), _NO_BYTES)


def check_disk(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that remote files can be kept on the disk."""
    if all("://" not in one.uri for one in _samples(settings, stack)):
        return
    folder, budget = cache_folder(), cache_budget()
    if folder is None or budget == 0:
        todo = f"set {FOLDER_VARIABLE} to a folder on a local disk" if folder is None else f"unset {BUDGET_VARIABLE}"
        yield Result("warn", "the disk cache is off: every epoch and run reads the files over the network again", todo)
        return
    elsewhere = f"set {FOLDER_VARIABLE} to a folder on a local disk"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not _is_writable(existing):
        yield Result(
            "warn", f"the folder of the disk cache, {folder}, cannot be written to; nothing is kept", elsewhere
        )
        return
    figures, free = summary(folder), shutil.disk_usage(existing).free
    held = f"{shown_bytes(figures.bytes)} of at most {shown_bytes(figures.budget)} used"
    detail = f"{folder}: {held}, {shown_bytes(free)} free on its disk"
    kind = _file_system(existing)
    if kind in _NETWORK_DISKS:
        detail += f", which is a network file system ({kind}): a quota can be smaller"
    if figures.bytes + free < figures.budget:
        todo = f"free disk space, {elsewhere}, or {BUDGET_VARIABLE} to less"
        yield Result("warn", f"{detail}, less than the budget", todo)
    else:
        yield Result("pass", detail)


def _samples(settings: Settings, stack: ExitStack) -> Sequence[LocatedFile]:
    """Return a few files of the repository, asked for once for all checks; none without a repository."""
    if settings.repo is None:
        return ()
    names = as_names(settings.collections or ())
    return _located(settings.repo, names, settings.dataset_type, settings.skymap, stack)


@lru_cache(maxsize=1)
def _located(
    repo: str, names: tuple[str, ...], dataset_type: str, skymap: str | None, _stack: ExitStack
) -> Sequence[LocatedFile]:
    with Repository(repo, names, dataset_type, skymap) as repository:
        return repository.samples()


def _measured(samples: Sequence[LocatedFile]) -> Result:
    uris = [one.uri for one in samples]
    # Without the dataset's id nothing comes from the disk cache, or goes there.
    sources = [HttpSource(one.uri, one.size, others=uris) for one in samples]
    middle = sources[0].size // 2
    _first_bytes(sources[0], middle)
    latency = min(_first_bytes(sources[0], middle + _PROBE * step) for step in (1, 2))
    host = urlsplit(sources[0].file.origin).hostname
    begun, parts = perf_counter(), list[Part]()
    for source in sources:
        starts = np.arange(0, source.size, _PIECE)
        for start in starts.tolist():
            length = min(_PIECE, source.size - start)
            if sum(part.nbytes for part in parts) + length <= _MEASURED_BYTES:
                parts += source.want(np.array([start]), np.array([length]), URGENT)
    wait([part.future for part in parts], _MEASURED_SECONDS)
    seconds = perf_counter() - begun
    received = 0
    for part in parts:
        received += len(part.future.result()) if part.future.done() else part.arrived
    rate = received / seconds
    detail = f"{host}: {received / 1e6:.1f} MB in {seconds:.2f} s ({rate / 1e6:.1f} MB/s), an answer takes "
    detail += f"{1000 * latency:.0f} ms, {connections()} connections at most"
    if rate < _SLOW:
        todo = "fill the disk cache before a training (lsstcutouts cache fill plan=plan.parquet), or work where the data are"
        return Result("warn", detail, todo)
    return Result("pass", detail)


def _first_bytes(source: HttpSource, offset: int) -> float:
    """Return the seconds that a few bytes take.

    Raises
    ------
    LsstCutoutsError
        Why they cannot be had.
    """
    begun = perf_counter()
    offset = max(0, min(offset, source.size - _PROBE))
    parts = source.want(np.array([offset]), np.array([min(_PROBE, source.size)]), URGENT)
    if wait([part.future for part in parts], _FIRST_SECONDS).not_done:
        figures = figures_of_process()
        waiting = figures.waiting_for if figures is not None else ""
        raise ReadTimeoutError(f"{waiting or source.file.origin}: no bytes of a file within {_FIRST_SECONDS:.0f} s")
    for part in parts:
        part.future.result()
    return perf_counter() - begun


def _is_writable(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    try:
        with TemporaryFile(dir=folder) as file:  # a full disk, a quota or a read-only mount shows only here
            file.write(bytes(4096))
    except OSError:
        return False
    return True


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, an empty string if it is not known."""
    mounts = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    resolved = folder.resolve()
    return next((mounts[path] for path in (resolved, *resolved.parents) if path in mounts), "")
