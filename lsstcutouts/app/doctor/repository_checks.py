"""The fifth and sixth check: a repository that opens, and a cutout that equals the oracle's."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from astropy.io import fits
from lsst.resources import ResourcePath
from numpy.typing import NDArray

from ...errors import LsstCutoutsError, ReadError
from ...plan.locations import LocatedFile
from ...plan.read_options import ReadOptions
from ...plan.repository import Repository, as_names
from ...read.fetcher import LsstDataFetcher
from ...read.work import Batch
from ...sky.geometry import YX, Box
from ...source.byte_source import SourceFile, open_source
from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate
from .check import TROUBLE, Check, Finding, Settings, Visit

__all__ = ["check_cutout", "check_repository", "compare", "read_afw"]

_TINY = SimulationConfig(cells=2, cell=64, grid=4, patches=1, bands="gr", targets=4, missing=None, holes=False)
"""One patch of 256 x 256 px in two bands: half a megabyte, a few seconds."""

_CELLS = "CellCoadd"
_CACHE_BYTES = 100_000_000
_TRACTS_COUNTED = 5

_PLACES = ((0.5, 0.5), (0.4, 0.45), (0.6, 0.4), (0.45, 0.6), (0.55, 0.55))
"""Middles of cutouts as fractions of a patch, ``(y, x)``: far from its edges, on and beside the borders of tiles."""

type Array = NDArray[Any]


@dataclass(frozen=True)
class _Target:
    """The repository that is tested."""

    repo: str
    collections: tuple[str, ...]
    settings: Settings
    note: str

    def open(self) -> Repository:
        return Repository(self.repo, self.collections, self.settings.dataset_type, self.settings.skymap)


def check_repository(visit: Visit) -> Check:
    """The repository opens and lists its coadds, and their files are where it says."""
    target = _target(visit)
    with target.open() as repository:
        return Check.of("repository", list(_listing(repository, target)))


def check_cutout(visit: Visit) -> Check:
    """Cutouts well inside a coadd equal those of another reader, bit for bit."""
    target = _target(visit)
    with target.open() as repository:
        return Check.of("cutout", [_cutouts(repository, target)])


def _target(visit: Visit) -> _Target:
    """Return the repository of the settings, or a simulated one, written by the first check that asks."""
    settings = visit.settings
    if settings.repo is not None:
        return _Target(settings.repo, as_names(settings.collections or ()), settings, settings.repo)
    root = visit.scratch / "repo"
    written = SimulatedRepository.load(root) if root.exists() else simulate(root, _TINY)
    tiny = replace(settings, dataset_type=written.dataset_type, skymap=None, bands=written.bands)
    return _Target(str(root), (written.collections,), tiny, "a simulated repository, written and removed again")


def _listing(repository: Repository, target: _Target) -> Iterator[Finding]:
    total = repository.count()
    if not total:
        yield Finding(
            "fail",
            f"{target.note} opens, but there is no {repository.where} with skymap {repository.skymap!r}",
            "give other collections= or dataset_type=",
        )
        return
    bands = {band: count for band in repository.bands() if (count := repository.count(band=band))}
    per_band = ", ".join(f"{band} {count}" for band, count in bands.items())
    yield Finding(
        "pass",
        f"{target.note}: {total} {repository.dataset_type} in {', '.join(repository.collections)} ({per_band}), "
        f"{_tracts(repository)}, skymap {repository.skymap}",
    )
    wanted = tuple(target.settings.bands or ())
    repository.check_bands(wanted)
    if absent := [band for band in wanted if band not in bands]:
        yield Finding(
            "warn",
            f"no coadd in band {', '.join(absent)}; there are {per_band}",
            "leave it out of bands=, or it will be zeros",
        )
    yield from _files(repository)


def _tracts(repository: Repository) -> str:
    tracts = repository.tracts()
    if len(tracts) > _TRACTS_COUNTED:
        return f"{len(tracts)} tracts ({tracts[0]} to {tracts[-1]})"
    return ", ".join(f"tract {tract}: {repository.count(tract=tract)}" for tract in tracts)


def _files(repository: Repository) -> Iterator[Finding]:
    """Yield what is wrong with the files of a few coadds."""
    samples = repository.samples()
    if not samples:
        todo = "restore the datastore, or give a collection whose files were transferred"
        yield Finding("fail", f"{repository.where}: coadds are registered, but none has a file", todo)
    # Local ones only: a request for each would cost seconds, and the cutouts read some of them.
    gone = [one.uri for one in samples if (path := ResourcePath(one.uri)).isLocal and not path.exists()]
    if gone:
        yield Finding(
            "fail",
            f"{len(gone)} of {len(samples)} coadds looked at have no file, such as {gone[0]}",
            "restore the files, or see that their disk is mounted",
        )


def _cutouts(repository: Repository, target: _Target) -> Finding:
    """Compare cutouts of the first coadd with pixels in its middle; in a tract's corner another tract may have them."""
    for coadd in repository.samples():
        finding = _cutouts_of(coadd, repository, target)
        if finding is not None:
            return finding
    return Finding("warn", "no coadd with pixels in its middle was found to compare", "give another collection")


def _cutouts_of(coadd: LocatedFile, repository: Repository, target: _Target) -> Finding | None:
    files = repository.locate([(coadd.tract, coadd.patch)], target.settings.bands or repository.bands())
    bands = tuple(target.settings.bands or sorted({one.band for one in files}))
    size, ra, dec = _places(coadd, repository, target.settings.shape)
    start = perf_counter()
    with LsstDataFetcher(
        target.repo,
        collections=target.collections,
        bands=bands,
        size=size,
        dataset_type=repository.dataset_type,
        cache_bytes=_CACHE_BYTES,
        read=ReadOptions(skymap=repository.skymap, flux_unit="native"),  # values as the oracle has them
    ) as fetcher:
        batch = fetcher.fetch(ra, dec)
    seconds = perf_counter() - start
    own = np.flatnonzero((batch["tract"] == coadd.tract) & (batch["patch"] == coadd.patch))
    pairs = list(_pairs(batch, own, bands, files, repository))
    wrong = [f"{text} {pair.what}" for pair in pairs if (text := compare(pair.found, pair.expected))]
    if wrong:
        return Finding(
            "fail",
            f"{len(wrong)} of {len(pairs)} cutouts differ from those of a second reader: {wrong[0]}",
            "do not use these pixels; report this line and the lines above, with the file",
        )
    if not any(np.nan_to_num(pair.expected).any() for pair in pairs):
        return None
    oracle = "lsst.images" if repository.storage_class == _CELLS else "astropy"
    where = f"tract {coadd.tract}, patch {coadd.patch}, {' '.join(sorted(one.band for one in files))}"
    text = f"{len(own)} cutouts of {size.y} x {size.x} px equal {oracle} bit for bit ({where}), read in {seconds:.2f} s"
    return Finding("pass", text)


def _places(coadd: LocatedFile, repository: Repository, shape: Sequence[int]) -> tuple[YX[int], Array, Array]:
    """Return a size that fits well into a patch, and positions there, degrees: by the skymap, whatever the file holds."""
    tract = repository.skymap_of([coadd.tract]).tracts[coadd.tract]
    inner = tract.inner_box(coadd.patch)
    size = YX(min(shape[0], max(1, inner.shape.y // 2)), min(shape[1], max(1, inner.shape.x // 2)))
    middle = np.asarray(inner.start) + np.array(_PLACES) * np.asarray(inner.shape)  # (5, 2)
    ra, dec = tract.projection.pixel_to_sky(middle[:, 0], middle[:, 1])
    return size, ra, dec


@dataclass(frozen=True)
class _Pair:
    """One band of a cutout as it was fetched and as the oracle has it, ``(Y, X)``."""

    found: Array
    expected: Array
    what: str


def _pairs(
    batch: Batch, rows: NDArray[np.int64], bands: Sequence[str], files: Sequence[LocatedFile], repository: Repository
) -> Iterator[_Pair]:
    image, starts = np.asarray(batch["image"]), np.asarray(batch["yx0"])
    cells = repository.storage_class == _CELLS
    for row in rows.tolist():
        box = Box.from_start(YX(*starts[row].tolist()), YX(*image.shape[2:]))
        for one in files:
            expected = repository.read_image(one, box) if cells else read_afw(one, box)
            yield _Pair(image[row, bands.index(one.band)], expected, f"in {box}, band {one.band} of {one.name}")


def compare(found: Array, expected: Array) -> str:
    """Return how a cutout's image ``(Y, X)`` differs from the oracle's, an empty string where it does not.

    Pixels that are not finite in the file are 0 in a cutout.
    """
    wanted = np.where(np.isfinite(expected), expected, 0).astype(np.float32)
    if wanted.shape != found.shape:
        return f"{found.shape} pixels, expected {wanted.shape}"
    differ = np.ascontiguousarray(found).view(np.uint32) != wanted.view(np.uint32)
    if not differ.any():
        return ""
    y, x = np.argwhere(differ)[0].tolist()
    return f"{differ.sum()} pixels, the first at ({y}, {x}): {found[y, x]} for {wanted[y, x]}"


def read_afw(one: LocatedFile, box: Box) -> Array:
    """Return image pixels of a file written by afw, read by astropy.

    The image is the first HDU after the primary one, its place that of the "A" WCS: this package's reader goes by names
    and by ``LTV``.

    Raises
    ------
    ReadError
        If astropy cannot read them, or they are not all in the file.
    """
    try:
        with closing(open_source(one.uri)) as source, fits.open(SourceFile(source)) as hdus:
            image = hdus[1]
            file = Box.from_start(_afw_start(image.header), YX(*image.shape))
            if file.contains(box):
                return np.asarray(image.section[box.slices(file.start)], np.float32)
    except LsstCutoutsError:
        raise
    except TROUBLE as error:
        raise ReadError(f"{one.name}: astropy cannot read {box}: {error}") from error
    raise ReadError(f"{one.name}: its pixels are {file}, {box} is not among them")


def _afw_start(header: fits.Header) -> YX[int]:
    y, x = (round(header[f"CRVAL{axis}A"] - header[f"CRPIX{axis}A"] + 1) for axis in (2, 1))
    return YX(y, x)
