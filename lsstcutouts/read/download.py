"""Estimates what reading a remote plan once downloads, and measures how fast that is."""

import time
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..plan.cutout_plan import CutoutPlan
from ..source.access import is_permanent
from ..source.disk.disk_cache import DiskCache, key_of
from ..source.remote import HttpSource
from ..source.runs import runs_of
from ..source.web.byte_parts import Part
from ..source.web.process import Web, check_web, web_of_process
from ..source.web.request_limits import connections
from .file_samples import FileSample, open_samples
from .options import ReaderOptions

__all__ = ["Download", "Link", "estimate_download", "held_bytes", "measure_link", "on_web"]

type Integers = NDArray[np.int64]

_WEB = ("http", "https", "dav", "davs", "s3")
_LARGEST_REQUEST = 1 << 20
_API_SHARE = 4
"""As in `lsstcutouts.source.web`: bytes of a request at most, and which part of the connections is for the Butler server."""

_COMPLETE = 0.85
"""Estimates are good to 15 %: a file of which the disk cache has this part of the estimate needs no more."""

_OPEN_SECONDS, _MEASURE_SECONDS, _MEASURE_BYTES = 2.0, 2.0, 4_000_000
_CHUNK_BYTES, _POLL_SECONDS = 96 << 10, 0.002
_FIRST_PART, _LAST_PART = 0.25, 0.9


@dataclass(frozen=True, slots=True)
class Link:
    """How fast files come, as it was measured.

    Attributes
    ----------
    rate
        Bytes per second; 0 if nothing had to be downloaded.
    latency
        Seconds from a request to its first bytes; 0 as above.
    """

    rate: float
    latency: float


@dataclass(frozen=True, slots=True)
class Download:
    """What reading a plan once takes; estimates, except for the files and their bytes.

    Attributes
    ----------
    files, file_bytes
        Remote files with targets, and their bytes as a whole.
    needed_bytes
        Bytes that are read of them: headers, and the tiles under the boxes.
    cached_bytes
        Those of them that the disk cache has.
    bytes, requests
        What is left to download, and requests for it, at least: batches that are far apart ask for neighbouring tiles one by one.
    signatures
        Requests to the Butler server for signed URLs.
    """

    files: int
    file_bytes: int
    needed_bytes: int
    cached_bytes: int
    bytes: int
    requests: int
    signatures: int

    def seconds(self, link: Link) -> float:
        """Return how long the download takes over a link, if the network limits it."""
        api = max(1, connections() // _API_SHARE)
        waiting = link.latency * (self.signatures / api + self.requests / max(1, connections() - api))
        return max(waiting, self.bytes / link.rate if link.rate else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def on_web(plan: CutoutPlan) -> NDArray[np.bool_]:
    """Return which files of a plan ``(F,)`` are on web servers or in S3, and so can be kept in the disk cache."""
    files = plan.files
    known = zip(files.uri, files.size, files.dataset_id, strict=True)
    return np.array([uri.partition("://")[0] in _WEB and size >= 0 and bool(name) for uri, size, name in known], bool)


def held_bytes(plan: CutoutPlan) -> Integers:
    """Return how many bytes of each file of a plan the disk cache has, ``(F,)``."""
    held, disk = np.zeros(len(plan.files), np.int64), DiskCache.of_process()
    if disk is None or not disk.figures().files:
        return held
    for file in np.flatnonzero(on_web(plan)).tolist():
        size = plan.files.size[file]
        gaps = disk.missing(key_of(plan.files.dataset_id[file]), 0, size)
        held[file] = size - sum(stop - start for start, stop in gaps)
    return held


def estimate_download(plan: CutoutPlan, options: ReaderOptions) -> tuple[Download, Mapping[int, FileSample]]:
    """Return what reading all targets of a plan once downloads, and the files that were opened to find out.

    The bytes of tiles follow from those of one file of each band.

    Raises
    ------
    ReadError
        If no file can be opened.
    AuthenticationError, RepositoryUnavailableError
        If a server refuses access, or does not answer.
    """
    check_web()
    held = held_bytes(plan)
    samples = open_samples(plan, options, held, _OPEN_SECONDS)
    needed, requests = _needed(plan, samples, web_of_process().rates.gap(connections()))
    used, sizes = np.flatnonzero(needed), np.array(plan.files.size, np.int64)
    needed, requests, held = needed[used], requests[used], np.minimum(held[used], needed[used])
    left = np.where(held < _COMPLETE * needed, needed - held, 0)
    signed = np.array([is_permanent(plan.files.uri[file]) for file in used.tolist()], bool)
    download = Download(
        files=len(used),
        file_bytes=int(sizes[used].clip(0).sum()),
        needed_bytes=int(needed.sum()),
        cached_bytes=int(np.where(left > 0, held, needed).sum()),
        bytes=int(left.sum()),
        requests=int(np.ceil((requests * left / needed.clip(1)).sum())),
        signatures=int((signed & (left > 0)).sum()),
    )
    return download, samples


def _needed(plan: CutoutPlan, samples: Mapping[int, FileSample], gap: int) -> tuple[Integers, Integers]:
    """Return bytes that are needed of each file, ``(F,)``, and requests for them."""
    nbytes, requests = np.zeros(len(plan.files), np.int64), np.zeros(len(plan.files), np.int64)
    sizes, count = np.array(plan.files.size, np.int64), len(plan.patches)
    used = np.bincount(plan.primary, minlength=count) > 0
    bands = {int(plan.patches.row_and_band[file, 1]): sample for file, sample in samples.items()}
    for band in range(len(plan.bands)):
        sample = bands.get(band) or next(iter(bands.values()))
        patch = np.flatnonzero(used & (plan.patches.files[:, band] >= 0))
        file = plan.patches.files[patch, band]
        headers = sample.headers
        tiles, runs = _tiles_of(plan, sample, gap)
        whole = sample.whole
        nbytes[file] = sizes[file] if whole else tiles[patch] + int((headers[:, 1] - headers[:, 0]).sum())
        requests[file] = 1 if whole else runs[patch] + len(headers)
        nbytes[file] = np.where(sizes[file] > 0, np.minimum(nbytes[file], sizes[file]), nbytes[file])
    return nbytes, requests


def _tiles_of(plan: CutoutPlan, sample: FileSample, gap: int) -> tuple[Integers, Integers]:
    """Return bytes of tiles, and requests for them, in a file of each patch, ``(P,)``; with what lies between near tiles."""
    places, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for grid in sample.grids:
        patch, extents = grid.under(plan, np.arange(len(plan)))
        start, stop = extents.T
        known = (start[:, None] >= sample.headers[:, 0]) & (stop[:, None] <= sample.headers[:, 1])
        new = ~known.any(axis=1)
        places.append((patch[new] << 41) + start[new])  # a file is smaller than 1 TiB: those of two patches never join
        lengths.append((stop - start)[new])
    starts, stops, _ = runs_of(np.concatenate(places), np.concatenate(lengths), gap, _LARGEST_REQUEST)
    patch, count = starts >> 41, len(plan.patches)
    nbytes = np.bincount(patch, stops - starts, minlength=count).astype(np.int64)
    return nbytes, np.bincount(patch, minlength=count)


def measure_link(plan: CutoutPlan, samples: Mapping[int, FileSample]) -> Link:
    """Measure rate and latency with tiles of a plan that must be read anyway: at most 4 MB, for at most 2 s."""
    web = web_of_process()
    begin, before, there = time.monotonic(), web.rates.data_bytes, on_web(plan)
    parts: list[Part] = []
    for file, sample in samples.items():
        extents = _first_extents(plan, file, sample, _MEASURE_BYTES // len(samples))
        if sample.whole or not (there[file] and len(extents)):
            continue
        source = HttpSource(plan.files.uri[file], plan.files.size[file], plan.files.dataset_id[file], plan.files.uri)
        sizes = extents[:, 1] - extents[:, 0]
        # Many requests, as in an epoch: a few long ones would be slow at their start.
        for chunk in np.split(np.arange(len(extents)), np.flatnonzero(np.diff(np.cumsum(sizes) // _CHUNK_BYTES)) + 1):
            parts += source.want(extents[chunk, 0], sizes[chunk], web.next_rank(0))
    return _measured(web, parts, begin, before)


def _first_extents(plan: CutoutPlan, file: int, sample: FileSample, most: int) -> Integers:
    """Return ranges ``(k, 2)`` of tiles under boxes in a file that is open, with at most so many bytes."""
    patch = int(plan.patches.row_and_band[file, 0])
    targets = np.flatnonzero(plan.primary == patch)
    extents = np.concatenate([np.empty((0, 2), np.int64), *(grid.under(plan, targets)[1] for grid in sample.grids)])
    return extents[np.cumsum(extents[:, 1] - extents[:, 0]) <= most]


def _measured(web: Web, parts: list[Part], begin: float, before: int) -> Link:
    """Return the rate from the first bytes to the last of what was asked for since a time (monotonic clock)."""
    seen: list[tuple[float, int]] = []
    while True:
        over = time.monotonic() > begin + _MEASURE_SECONDS or all(part.future.done() for part in parts)
        if (now := web.rates.data_bytes) > (seen[-1][1] if seen else before):
            seen.append((time.monotonic(), now))
        if over:
            break
        wait([part.future for part in parts], _POLL_SECONDS)
    if not seen:
        return Link(0.0, 0.0)
    answered, total = seen[0][0] - begin, seen[-1][1] - before
    # Without the first and last of them: connections begin slowly, and few are left at the end.
    middle = [one for one in seen if _FIRST_PART <= (one[1] - before) / total <= _LAST_PART] or seen
    (first, old), (last, new) = middle[0], middle[-1]
    if last - first < _POLL_SECONDS:  # all at once: a fast network
        return Link(total / max(seen[-1][0] - begin, _POLL_SECONDS), answered)
    return Link((new - old) / (last - first), answered)
