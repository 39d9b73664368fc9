"""Checks of a repository: it opens and lists its coadds, and cutouts equal those of a second reader."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import lru_cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from astropy.io import fits
from lsst.resources import ResourcePath
from numpy.typing import NDArray

from ...errors import ReadError
from ...plan.locations import LocatedFile
from ...plan.read_options import ReadOptions
from ...plan.repository import Repository
from ...read.fetcher import LsstDataFetcher
from ...sky.geometry import YX, Box
from ...source.byte_source import SourceFile, open_source
from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate
from .diagnosis import TROUBLE, Result, Settings

__all__ = ["check_cutout", "check_repository", "compare", "read_afw"]

# One patch of 256 x 256 px in two bands: half a megabyte, a few seconds.
_TINY = SimulationConfig(cells=2, cell=64, grid=4, patches=1, bands="gr", targets=4, missing=None, holes=False)
_CACHE_BYTES = 100_000_000
_TRACTS_COUNTED = 5
# Centres of cutouts as fractions of a patch, (y, x): far from its edges, on and beside the edges of tiles.
_PLACES = np.array([(0.5, 0.5), (0.4, 0.45), (0.6, 0.4), (0.45, 0.6), (0.55, 0.55)])

type Array = NDArray[Any]


@lru_cache(maxsize=1)
def _simulated(stack: ExitStack) -> SimulatedRepository:
    """Return a small repository, written for the first check that asks and removed with the stack."""
    return simulate(Path(stack.enter_context(TemporaryDirectory(prefix="lsstcutouts-doctor-"))) / "repo", _TINY)


def _opened(settings: Settings, stack: ExitStack) -> tuple[Repository, tuple[str, ...]]:
    """Return the repository of the settings, or a simulated one, and the bands that are asked of it."""
    if settings.repo is None:
        made = _simulated(stack)
        return Repository(made.root, made.collections, made.dataset_type), made.bands
    names = settings.collections or ()
    return Repository(settings.repo, names, settings.dataset_type, settings.skymap), tuple(settings.bands or ())


def check_repository(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that the repository opens, has coadds in the bands, and their files."""
    name = settings.repo or "a simulated repository, written and removed again"
    repository, wanted = _opened(settings, stack)
    with repository:
        total, where = repository.count(), repository.where
        if not total:
            detail = f"{name} opens, but there is no {where} with skymap {repository.skymap!r}"
            yield Result("fail", detail, "give other collections= or dataset_type=")
            return
        counts = {band: n for band in repository.bands() if (n := repository.count(band=band))}
        bands = ", ".join(f"{band} {n}" for band, n in counts.items())
        tracts = repository.tracts()
        listed = f"{len(tracts)} tracts ({tracts[0]} to {tracts[-1]})"
        if len(tracts) <= _TRACTS_COUNTED:
            listed = ", ".join(f"tract {tract}: {repository.count(tract=tract)}" for tract in tracts)
        found = f"{total} {repository.dataset_type} in {', '.join(repository.collections)} ({bands})"
        yield Result("pass", f"{name}: {found}, {listed}, skymap {repository.skymap}")
        repository.check_bands(wanted)
        if absent := [band for band in wanted if band not in counts]:
            detail = f"no coadd in band {', '.join(absent)}; there are {bands}"
            yield Result("warn", detail, "leave it out of bands=, or it will be zeros")
        samples = repository.samples()
        if not samples:
            todo = "restore the datastore, or give a collection whose files were transferred"
            yield Result("fail", f"{where}: coadds are registered, but none has a file", todo)
        # Local ones only: a request for each would take seconds, and the cutouts read some of them.
        gone = [one.uri for one in samples if (path := ResourcePath(one.uri)).isLocal and not path.exists()]
        if gone:
            detail = f"{len(gone)} of {len(samples)} coadds looked at have no file, such as {gone[0]}"
            yield Result("fail", detail, "restore the files, or see that their disk is mounted")


def check_cutout(settings: Settings, stack: ExitStack) -> Iterator[Result]:
    """Check that cutouts well inside a coadd equal those of a second reader, bit for bit.

    The first coadd with pixels in its middle is compared; in the corner of a tract another tract may have them.
    """
    repository, wanted = _opened(settings, stack)
    with repository:
        results = (_compared(one, repository, settings, wanted) for one in repository.samples())
        nothing = Result("warn", "no coadd with pixels in its middle was found to compare", "give another collection")
        yield next(filter(None, results), nothing)


def _compared(one: LocatedFile, repository: Repository, settings: Settings, wanted: Sequence[str]) -> Result | None:
    """Compare cutouts of the patch of a coadd; None if it has no pixels there."""
    files = repository.locate([(one.tract, one.patch)], wanted or repository.bands())
    bands = wanted or sorted(file.band for file in files)
    # Size and centres well inside the patch, from the skymap, whatever the file holds.
    tract = repository.skymap_of([one.tract]).tracts[one.tract]
    inner = tract.inner_box(one.patch)
    size = YX(*(min(n, max(1, most // 2)) for n, most in zip(settings.shape, inner.shape, strict=True)))
    centres = np.asarray(inner.start) + _PLACES * np.asarray(inner.shape)  # (5, 2)
    start = perf_counter()
    with LsstDataFetcher(
        settings.repo or repository.name,
        collections=repository.collections,
        bands=bands,
        size=size,
        dataset_type=repository.dataset_type,
        cache_bytes=_CACHE_BYTES,
        read=ReadOptions(skymap=repository.skymap, flux_unit="native"),  # values as the second reader has them
    ) as fetcher:
        batch = fetcher.fetch(*tract.projection.pixel_to_sky(centres[:, 0], centres[:, 1]))
    seconds = perf_counter() - start
    image, starts, cells = np.asarray(batch["image"]), np.asarray(batch["yx0"]), repository.storage_class == "CellCoadd"
    rows = np.flatnonzero((batch["tract"] == one.tract) & (batch["patch"] == one.patch)).tolist()
    wrong, has_pixels = [], False
    for row, file in product(rows, files):
        box = Box.from_start(YX(*starts[row].tolist()), size)
        expected = repository.read_image(file, box) if cells else read_afw(file, box)
        has_pixels |= bool(np.nan_to_num(expected).any())
        if text := compare(image[row, bands.index(file.band)], expected):
            wrong.append(f"{text} in {box}, band {file.band} of {file.name}")
    if wrong:
        detail = f"{len(wrong)} of {len(rows) * len(files)} cutouts differ from those of a second reader: {wrong[0]}"
        return Result("fail", detail, "do not use these pixels; report this line and the lines above, with the file")
    equal = f"{len(rows)} cutouts of {size.y} x {size.x} px equal {'lsst.images' if cells else 'astropy'} bit for bit"
    place = f"tract {one.tract}, patch {one.patch}, {' '.join(sorted(file.band for file in files))}"
    return Result("pass", f"{equal} ({place}), read in {seconds:.2f} s") if has_pixels else None


def compare(found: Array, expected: Array) -> str:
    """Return how a cutout's image ``(Y, X)`` differs from the expected one, an empty string if it does not.

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
    """Return image pixels ``(Y, X)`` of a file written by afw, read by astropy.

    The image is the first HDU after the primary one, its origin that of the "A" WCS: this package's reader goes by names
    and by ``LTV``. Raises `ReadError` if astropy cannot read the pixels, or the file does not have all of them.
    """
    try:
        with closing(open_source(one.uri)) as source, fits.open(SourceFile(source)) as hdus:
            image, header = hdus[1], hdus[1].header
            y, x = (round(header[f"CRVAL{axis}A"] - header[f"CRPIX{axis}A"] + 1) for axis in (2, 1))
            file = Box.from_start(YX(y, x), YX(*image.shape))
            if not file.contains(box):
                raise ReadError(f"the file has {file}")
            return np.asarray(image.section[box.slices(file.start)], np.float32)
    except TROUBLE as error:
        raise ReadError(f"{one.name}: astropy cannot read {box}: {error}") from error
