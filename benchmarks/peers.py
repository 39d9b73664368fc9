"""Our reader and loader beside other readers of the same boxes, in turn, in one process; every reader's pixels are checked.

Run: python -m benchmarks.peers repo=[bench/dense,bench/sparse] [butler_targets=30] [key=value ...] > peers.json

The first repository gives the dense scene, 500 targets of one full-size patch, the second one the sparse scene, 5 targets in
each patch. Both are written by
  lsstcutouts simulate root=bench/dense cells=20 patches=1 targets=700 missing=null holes=false
  lsstcutouts simulate root=bench/sparse cells=10 patches=6 targets=2000 missing=null holes=false

fitsio comes with the project's extra `dev`. torchfits and Cutana are measured where they are installed
(pip install torchfits cutana). Hyrax reads coadds with lsst.geom and a skymap from the Butler, parts of the LSST stack that PyPI
does not have; its RangeReadLSSTDataset opens a file with fitsio for each cutout and band, which is measured as such.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box as ImagesBox
from lsst.images.serialization import open_archive
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from lsstcutouts.app.benchmark.measured import BenchmarkSettings, MeasuredTargets
from lsstcutouts.app.benchmark.ways import ButlerWay, Way, consume, interleaved
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.sky.geometry import YX, Box

from .common import OurWay, rate_row, report, scene, settings_of, simulated

__all__ = ["SCENES", "difference", "main", "peers_of", "scenes_of"]

type Array = NDArray[Any]

SCENES = {"repo": ["bench/dense", "bench/sparse"], "dense_targets": 500, "sparse_targets": 5, "least_seconds": 0.2}
"""Settings of the scenes: folders of the repositories, targets in all of the first and in each patch of the second, and the
least time of a run, in which passes are repeated."""

_COMPARED, _MOST_COPIED = 6, 4
"""Targets whose pixels are compared, and patches of which whole images are kept in memory."""


class _Plane(NamedTuple):
    """Where a plane lies in a file; known beforehand, as after a look at one file."""

    name: str
    hdu: int
    start: YX[int]
    bits: Sequence[int]


type _Known = Mapping[tuple[int, int], list[_Plane]]
"""Planes of a file, by patch (row of the plan's table) and band."""


class _Peer(Way):
    """Reads box by box, band by band; what it opens for a patch stays open for the other targets of that patch."""

    package = ""
    planes: tuple[str, ...] = ("image", "variance", "mask")

    def __init__(self, sample: MeasuredTargets, known: _Known) -> None:
        self._sample, self._known = sample, known

    def prepare(self) -> Callable[[], int]:
        return lambda: sum(1 for _ in self._cutouts(self._sample.rows))

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        found = list(self._cutouts(rows))
        return {name: np.stack([one[name] for one in found]) for name in self._sample.planes}

    @abstractmethod
    def open(self, path: str, stack: ExitStack) -> Any:
        """Return an open file, which the stack closes."""

    @abstractmethod
    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        """Return the pixels of a box, given in tract pixels."""

    def _cutouts(self, rows: NDArray[np.int64]) -> Iterator[dict[str, Array]]:
        plan, patch, files = self._sample.plan, -1, list[Any]()
        with ExitStack() as stack:
            for row in rows.tolist():
                if plan.primary[row] != patch:
                    patch = int(plan.primary[row])
                    stack.close()
                    files = [self.open(path, stack) for path in _paths(self._sample, patch)]
                box, made = self._sample.box(row), {}
                for at, name in enumerate(self._sample.planes):
                    out = made[name] = np.empty((len(files), *plan.size), np.int32 if name == "mask" else np.float32)
                    for band, file in enumerate(files):
                        plane = self._known[patch, band][at]
                        pixels = self.cut(file, plane, box)
                        if plane.bits:  # this package numbers the bits of a mask as they were asked for
                            pixels = np.bitwise_or.reduce(
                                [((pixels >> bit) & 1) << i for i, bit in enumerate(plane.bits)]
                            )
                        out[band] = pixels
                yield made


class _Astropy(_Peer):
    name = "astropy section"

    def open(self, path: str, stack: ExitStack) -> Any:
        return stack.enter_context(fits.open(path))

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        return np.asarray(file[plane.hdu].section[box.slices(plane.start)])


class _Fitsio(_Peer):
    name, package = "fitsio slices", "fitsio"

    def open(self, path: str, stack: ExitStack) -> Any:
        import fitsio

        return stack.enter_context(fitsio.FITS(path))

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        return np.asarray(file[plane.hdu][box.slices(plane.start)])


class _FitsioAgain(_Fitsio):
    """A file is opened for each cutout and band, as in Hyrax's ``RangeReadLSSTDataset``."""

    name = "fitsio as Hyrax"

    def open(self, path: str, stack: ExitStack) -> Any:  # noqa: ARG002 - nothing stays open
        return partial(super().open, path)

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        with ExitStack() as stack:
            return super().cut(file(stack), plane, box)


class _TorchfitsSubset(_Peer):
    name, package = "torchfits subset reader", "torchfits"

    def prepare(self) -> Callable[[], int]:
        torchfits = import_module("torchfits")
        torchfits.clear_file_cache()  # nothing of the pass before is kept
        return super().prepare()

    def open(self, path: str, stack: ExitStack) -> Any:
        torchfits = import_module("torchfits")
        return cache(lambda hdu: stack.enter_context(torchfits.open_subset_reader(path, hdu)))

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        y, x = box.slices(plane.start)
        return np.asarray(file(plane.hdu).read_subset(x.start, y.start, x.stop, y.stop))


class _TorchfitsWhole(_TorchfitsSubset):
    name = "torchfits whole patch"

    def open(self, path: str, stack: ExitStack) -> Any:  # noqa: ARG002 - nothing stays open
        torchfits = import_module("torchfits")
        return cache(lambda hdu: np.asarray(torchfits.read_tensor(path, hdu)))

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        return np.asarray(file(plane.hdu)[box.slices(plane.start)])


class _Images(_Peer):
    name, planes = "lsst.images reader", ("image", "variance")

    def open(self, path: str, stack: ExitStack) -> Any:
        return stack.enter_context(open_archive(path))

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        bbox = ImagesBox.factory[box.y0 : box.y1, box.x0 : box.x1]
        return np.asarray(file.get_component(plane.name, bbox=bbox).array)


class _Cutana(_Peer):
    """Extraction only, in one thread; Cutana decompresses each image as a whole."""

    name, package, planes = "Cutana", "cutana", ("image",)

    def prepare(self) -> Callable[[], int]:
        catalog = self._catalog(self._sample.rows)
        return lambda: sum(len(result["cutouts"]) for result in self._results(catalog))

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        found = self._results(self._catalog(rows))
        return {"image": np.stack([np.moveaxis(cutout, -1, 0) for of in found for cutout in of["cutouts"]])}

    def open(self, path: str, stack: ExitStack) -> Any:
        return WCS(stack.enter_context(fits.open(path))["IMAGE"].header)

    def cut(self, file: Any, plane: _Plane, box: Box) -> Array:
        """Return the position around which Cutana cuts this box: it rounds the lower edges down."""
        y, x = box.slices(plane.start)
        half = (y.stop - y.start) // 2 + 0.5
        return np.array(file.pixel_to_world_values(x.start + half, y.start + half))

    def _catalog(self, rows: NDArray[np.int64]) -> Any:
        import pandas as pd

        plan, found, length = self._sample.plan, [], self._sample.plan.size.y
        for patch in dict.fromkeys(plan.primary[rows].tolist()):
            paths = _paths(self._sample, patch)
            with ExitStack() as stack:
                projection = self.open(paths[0], stack)
            for row in rows[plan.primary[rows] == patch].tolist():
                position = self.cut(projection, self._known[patch, 0][0], self._sample.box(row)).tolist()
                found.append((str(row), *position, length, str(paths)))
        return pd.DataFrame(found, columns=["SourceID", "RA", "Dec", "diameter_pixel", "fits_file_paths"])

    def _results(self, catalog: Any) -> Any:
        cutana = import_module("cutana")
        config = cutana.get_default_config()
        config.do_only_cutout_extraction, config.apply_flux_conversion = True, False
        config.fits_extensions = ["IMAGE"]
        return cutana.create_cutouts_direct(catalog, config, 1, log_set_progress=False)


class _Tensors(Way):
    """The same cutouts as a `TensorDataset` through torch's `DataLoader`: nothing has to be read."""

    name, cache = "TensorDataset", "memory"

    def __init__(self, ours: OurWay, rows: NDArray[np.int64], batch_size: int) -> None:
        self._ours = ours
        tensors = [torch.from_numpy(plane) for plane in ours.pixels(rows).values()]
        self._batches = DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True)

    def prepare(self) -> Callable[[], int]:
        return partial(consume, self._batches)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        return self._ours.pixels(rows)


class _Copies(Way):
    """A compiled copy of the same boxes out of tiles in memory, into memory used before: what a perfect cache would cost."""

    name, cache = "compiled copy", "memory"

    def __init__(self, sample: MeasuredTargets, known: _Known, batch_size: int) -> None:
        self._sample, self._known = sample, known
        self._room = np.empty((batch_size, len(sample.plan.bands), *sample.plan.size), np.float32)
        self._tiles: dict[int, Array] = {}  # (B, tiles along y, tiles along x, Y, X) of each patch
        for patch in np.unique(sample.plan.primary[sample.rows]).tolist():
            with ExitStack() as stack:
                files = [stack.enter_context(open_coadd(path)) for path in _paths(sample, patch)]
                step, grid = files[0].layout("image").tile_shape, files[0].layout("image").tile_grid
                whole = np.zeros((len(files), grid.y * step.y, grid.x * step.x), np.float32)
                for band, file in enumerate(files):
                    whole[band, : file.bbox.shape.y, : file.bbox.shape.x] = file.read("image")
            tiles = whole.reshape(len(files), grid.y, step.y, grid.x, step.x).swapaxes(2, 3)
            self._tiles[patch] = np.ascontiguousarray(tiles)

    def prepare(self) -> Callable[[], int]:
        return lambda: sum(map(len, self._batches(self._sample.rows)))

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        return {"image": np.concatenate([batch.copy() for batch in self._batches(rows)])}

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[Array]:
        plan, room = self._sample.plan, self._room
        for at in range(0, len(rows), len(room)):
            some = rows[at : at + len(room)]
            for patch in np.unique(plan.primary[some]).tolist():
                place = np.flatnonzero(plan.primary[some] == patch)
                _copy(self._tiles[patch], plan.yx0[some[place]] - self._known[patch, 0][0].start, place, room)
            yield room[: len(some)]


@numba.njit(nogil=True)
def _copy(tiles, corners, place, out):  # type: ignore[no-untyped-def]
    """Copy boxes ``(n, B, Y, X)`` out of tiles, piece by piece of a row."""
    high, wide = tiles.shape[3], tiles.shape[4]
    for n in range(len(place)):
        y0, x0 = corners[n]
        for band in range(out.shape[1]):
            for y in range(y0, y0 + out.shape[2]):
                begin = x0
                while begin < x0 + out.shape[3]:
                    end = min(x0 + out.shape[3], (begin // wide + 1) * wide)
                    source = tiles[band, y // high, begin // wide, y % high, begin % wide : wide]
                    target = out[place[n], band, y - y0, begin - x0 : end - x0]
                    for x in range(len(target)):
                        target[x] = source[x]
                    begin = end


def _paths(sample: MeasuredTargets, patch: int) -> list[str]:
    return [sample.plan.files.uri[file] for file in sample.plan.patches.files[patch].tolist()]


def _known(sample: MeasuredTargets) -> _Known:
    found = {}
    for patch, band, _, path in sample.files():
        with open_coadd(path) as coadd:
            bits = [coadd.mask_location(name)[1] for name in sample.mask_planes]
            found[patch, band] = [
                _Plane(name, coadd.layout(name).hdu, coadd.bbox.start, bits if name == "mask" else ())
                for name in sample.planes
            ]
    return found


def scenes_of(settings: BenchmarkSettings, own: Mapping[str, Any]) -> Iterator[tuple[str, MeasuredTargets]]:
    """Yield name and targets of each scene that there is a repository for."""
    repositories = [own["repo"]] if isinstance(own["repo"], str) else own["repo"]
    for name, root in zip(("dense", "sparse"), repositories, strict=False):
        if name == "dense":
            yield name, scene(simulated(root), replace(settings, targets=own["dense_targets"]))
        else:
            yield name, scene(simulated(root), settings, per_patch=own["sparse_targets"])


def peers_of(sample: MeasuredTargets) -> tuple[list[Way], dict[str, str]]:
    """Return the other readers of a sample, and for those that cannot take part the reason."""
    known, ways, reasons = _known(sample), list[Way](), {"Hyrax": "needs lsst.geom"}
    for kind in (_Astropy, _Fitsio, _FitsioAgain, _TorchfitsSubset, _TorchfitsWhole, _Images, _Cutana):
        if kind.package and find_spec(kind.package) is None:
            reasons[kind.name] = "not installed"
        elif not set(sample.planes) <= set(kind.planes):
            reasons[kind.name] = f"not measured for {' + '.join(sample.planes)}"
        else:
            ways.append(kind(sample, known))
    return ways, reasons


def difference(way: Way, first: Way, rows: NDArray[np.int64]) -> str:
    """Return ``"same"`` if two ways give the same pixels, else how many differ and by how much.

    This package gives 0 where a pixel of the image is not finite; others leave it as it is.
    """
    told, found = [], way.pixels(rows)
    for name, ours in first.pixels(rows).items():
        theirs = found[name]
        theirs = np.where(np.isfinite(theirs), theirs, 0) if name == "image" else theirs
        if not np.array_equal(ours, theirs, equal_nan=name != "mask"):
            largest = np.nanmax(np.abs(ours.astype(np.float64) - theirs))
            told.append(f"{name}: {int((ours != theirs).sum())} of {ours.size} differ, by {largest:.3g} at most")
    return "; ".join(told) or "same"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print cutouts/s of each way."""
    settings, own = settings_of(__doc__, SCENES, arguments)
    figures: list[dict[str, Any]] = []
    for scene_name, sample in scenes_of(settings, own):
        sample.touch()
        tiles = {state: TileCache(settings.cache_bytes) for state in ("new", "first", "empty", "memory")}
        ours = [
            OurWay(sample, settings, name, state, cache, threads)
            for state, cache in tiles.items()
            for name in ("reader", "loader")
            for threads in settings.thread_counts
        ]
        others, reasons = peers_of(sample)
        others.append(_Tensors(ours[0], sample.rows, settings.batch_size))
        if sample.planes == ("image",) and sample.patches <= _MOST_COPIED:
            others.append(_Copies(sample, _known(sample), settings.batch_size))
        with closing(ButlerWay(sample, settings.butler_targets)) as butler:
            butler.most_runs = settings.repeats
            ways = [*ours, *others, *([] if butler.needs_stack else [butler])]
            compared = {way: difference(way, ours[0], sample.some_rows(_COMPARED)) for way in ways}
            rates = interleaved(ways, settings.repeats, least_seconds=own["least_seconds"])
        bases = {way.cache: median(of) for way, of in zip(ours, rates, strict=False) if way.is_base}
        for way, of in zip(ways, rates, strict=True):
            row = rate_row(way, of, scene=scene_name) | {"pixels": compared[way]}
            for state in () if way in ours else (way.cache,) if way.cache else ("new", "first", "empty"):
                row[f"ours ({state}) / this"] = bases[state] / row["cutouts/s"]
            figures.append(row)
        figures += [{"scene": scene_name, "way": name, "pixels": reason} for name, reason in reasons.items()]
    report(figures, load=own["load"])


if __name__ == "__main__":
    main()
