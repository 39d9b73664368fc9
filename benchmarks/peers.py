"""Loops over astropy and fitsio beside butler.get and the loader, after a check that all give the same pixels.

Run: python -m benchmarks.peers [peer_targets=200] [key=value of lsstcutouts benchmark]
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.measured import MeasuredTargets, sample_of
from lsstcutouts.app.benchmark.ways import ButlerWay, LoaderWay, Way, check_pixels, interleaved
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.masks import places_of, renumbered
from lsstcutouts.sky.geometry import Box

from .common import report, settings_of

__all__ = ["AstropyWay", "FitsioWay", "main"]

type Array = NDArray[Any]


class _Peer(Way):
    """Reads box by box, band by band, plane by plane; files that it opens stay open until the pass is over."""

    def __init__(self, sample: MeasuredTargets, rows: NDArray[np.int64]) -> None:
        self.sample, self.rows = sample, rows

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the targets."""
        return self._run

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, as this package gives them: not finite becomes 0, mask bits renumbered."""
        with ExitStack() as stack:
            read = self.reader(stack)
            found = [self._target(read, row) for row in rows.tolist()]
        planes = {name: np.stack([one[name] for one in found]) for name in self.sample.planes}
        image = planes["image"]
        return planes | {"image": np.where(np.isfinite(image), image, np.float32(0))}

    @abstractmethod
    def reader(self, stack: ExitStack) -> Callable[[int, int, str, Box], Array]:
        """Return what reads a plane: patch (row of the plan's table), band, plane, box in tract pixels."""

    def _run(self) -> int:
        with ExitStack() as stack:
            read = self.reader(stack)
            for row in self.rows.tolist():
                self._target(read, row)
        return len(self.rows)

    def _target(self, read: Callable[[int, int, str, Box], Array], row: int) -> dict[str, Array]:
        plan, box = self.sample.plan, self.sample.box(row)
        patch = int(plan.primary[row])
        made = {}
        for plane in self.sample.planes:
            out = made[plane] = np.empty((len(plan.bands), *plan.size), np.int32 if plane == "mask" else np.float32)
            for band in range(len(plan.bands)):
                out[band] = read(patch, band, plane, box)
        return made


class _FilePeer(_Peer):
    """Slices of files by HDU; which HDU is which is known beforehand."""

    def __init__(self, sample: MeasuredTargets, rows: NDArray[np.int64]) -> None:
        super().__init__(sample, rows)
        self._known: dict[tuple[int, int], tuple[Box, dict[str, int], Any]] = {}
        for patch, band, _, path in sample.files():
            with open_coadd(path) as coadd:
                hdus = {plane: coadd.layout(plane).hdu for plane in sample.planes}
                places = places_of(coadd, sample.mask_planes) if "mask" in hdus else []
                self._known[patch, band] = coadd.bbox, hdus, places

    @abstractmethod
    def open(self, path: str, stack: ExitStack) -> Any:
        """Return an open file."""

    @abstractmethod
    def cut(self, file: Any, hdu: int, y: slice, x: slice) -> Array:
        """Return a part of an HDU."""

    def reader(self, stack: ExitStack) -> Callable[[int, int, str, Box], Array]:
        """Return what reads a plane."""
        plan, open_files = self.sample.plan, dict[tuple[int, int], Any]()

        def read(patch: int, band: int, plane: str, box: Box) -> Array:
            key = patch, band
            if key not in open_files:
                open_files[key] = self.open(plan.files.uri[plan.patches.files[key]], stack)
            bbox, hdus, places = self._known[key]
            pixels = self.cut(open_files[key], hdus[plane], *box.slices(bbox.start))
            return renumbered({"mask": pixels}, places) if plane == "mask" else pixels

        return read


class AstropyWay(_FilePeer):
    """``CompImageHDU.section`` of astropy; the file stays open."""

    name = "astropy section"

    def open(self, path: str, stack: ExitStack) -> Any:
        """Return an open file."""
        return stack.enter_context(fits.open(path))

    def cut(self, file: Any, hdu: int, y: slice, x: slice) -> Array:
        """Return a part of an HDU."""
        return np.asarray(file[hdu].section[y, x])


class FitsioWay(_FilePeer):
    """Slices of fitsio (cfitsio); the file stays open."""

    name = "fitsio slices"

    def open(self, path: str, stack: ExitStack) -> Any:
        """Return an open file."""
        import fitsio

        return stack.enter_context(fitsio.FITS(path))

    def cut(self, file: Any, hdu: int, y: slice, x: slice) -> Array:
        """Return a part of an HDU."""
        return np.asarray(file[hdu][y, x])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print cutouts/s of each way."""
    settings, own = settings_of(__doc__, {"peer_targets": 200}, arguments)
    sample = sample_of(settings, progress=True)
    sample.touch()
    some = np.linspace(0, len(sample.rows) - 1, min(own["peer_targets"], len(sample.rows))).astype(np.int64)
    rows = sample.rows[some]  # none of the peers keeps pixels: fewer targets cost each as much
    cache = TileCache(settings.cache_bytes)
    ways: list[Way] = [LoaderWay(sample, settings, "empty", cache, threads=n) for n in settings.thread_counts]
    ways = [AstropyWay(sample, rows), FitsioWay(sample, rows), *ways]
    with closing(ButlerWay(sample, settings.butler_targets)) as butler:
        if not butler.needs_stack:
            ways.insert(0, butler)
        check_pixels(ways, sample)
        rates = interleaved(ways, settings.repeats)
    report(
        [
            {"way": w.name, "threads": w.threads, "cutouts/s": median(r), "min": min(r), "max": max(r)}
            for w, r in zip(ways, rates, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
