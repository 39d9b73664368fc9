"""The ways that one would write without this package, each over one box after another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from astropy.io import fits
from lsst.daf.butler import Butler, DatasetRef
from lsst.images import Box as ImagesBox
from numpy.typing import NDArray

from ...fits.coadd import open_coadd
from ...read.masks import places_of, renumbered
from ...sky.geometry import Box
from .fields import Field
from .timing import MANY, Way

__all__ = ["AstropyWay", "ButlerWay", "FitsioWay", "peers_of"]

type Array = NDArray[Any]


class _Peer(ABC):
    """Reads box by box, band by band, plane by plane; files that it opens stay open until the pass is over."""

    name = ""
    most_runs = MANY

    def __init__(self, field: Field, rows: NDArray[np.int64]) -> None:
        self.field, self.rows = field, rows

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the targets."""
        return self._run

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, as this package gives them: not finite becomes 0, mask bits renumbered."""
        with ExitStack() as stack:
            read = self.reader(stack)
            found = [self._target(read, row) for row in rows.tolist()]
        planes = {name: np.stack([one[name] for one in found]) for name in self.field.scene.names}
        image = planes["image"]
        return planes | {"image": np.where(np.isfinite(image), image, np.float32(0))}

    def close(self) -> None:  # noqa: B027 - one of them may have something to close
        """Do nothing: a pass closes its files."""

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
        plan, box = self.field.plan, self.field.box(row)
        patch = int(plan.primary[row])
        made = {}
        for plane in self.field.scene.names:
            out = made[plane] = np.empty((len(plan.bands), *plan.size), np.int32 if plane == "mask" else np.float32)
            for band in range(len(plan.bands)):
                out[band] = read(patch, band, plane, box)
        return made


class ButlerWay(_Peer):
    """``butler.get(ref, parameters={"bbox": ...})`` of one component at a time, by resolved ref."""

    name = "butler.get"

    def __init__(self, field: Field, rows: NDArray[np.int64]) -> None:
        super().__init__(field, rows)
        plan = field.plan
        self._butler = Butler.from_config(plan.repo, collections=plan.collections)
        self._refs: dict[tuple[int, int, str], DatasetRef] = {}
        for patch, band, file, _ in field.files():
            ref = self._butler.get_dataset(UUID(plan.files.dataset_id[file]))
            if ref is not None:
                self._refs |= {(patch, band, plane): ref.makeComponentRef(plane) for plane in field.scene.names}

    @property
    def needs_stack(self) -> bool:
        """Whether only the LSST stack reads these datasets: afw's classes of exposures."""
        return any("Exposure" in str(ref.datasetType.parentStorageClass) for ref in self._refs.values())

    def reader(self, stack: ExitStack) -> Callable[[int, int, str, Box], Array]:  # noqa: ARG002 - files are the Butler's
        """Return what reads a plane."""
        return self._read

    def close(self) -> None:
        """Close the Butler."""
        self._butler.close()

    def _read(self, patch: int, band: int, plane: str, box: Box) -> Array:
        bbox = ImagesBox.factory[box.y0 : box.y1, box.x0 : box.x1]
        pixels = self._butler.get(self._refs[patch, band, plane], parameters={"bbox": bbox})
        if plane != "mask":
            return np.asarray(pixels.array)
        masks = [pixels.get(name).astype(np.int32) << i for i, name in enumerate(self.field.mask_planes)]
        return np.asarray(np.bitwise_or.reduce(masks))


class _FilePeer(_Peer):
    """Slices of files by HDU; which HDU is which is known beforehand."""

    def __init__(self, field: Field, rows: NDArray[np.int64]) -> None:
        super().__init__(field, rows)
        self._known: dict[tuple[int, int], tuple[Box, dict[str, int], Any]] = {}
        for patch, band, _, path in field.files():
            with open_coadd(path) as coadd:
                hdus = {plane: coadd.layout(plane).hdu for plane in field.scene.names}
                places = places_of(coadd, field.mask_planes) if "mask" in hdus else []
                self._known[patch, band] = coadd.bbox, hdus, places

    @abstractmethod
    def open(self, path: str, stack: ExitStack) -> Any:
        """Return an open file."""

    @abstractmethod
    def cut(self, file: Any, hdu: int, y: slice, x: slice) -> Array:
        """Return a part of an HDU."""

    def reader(self, stack: ExitStack) -> Callable[[int, int, str, Box], Array]:
        """Return what reads a plane."""
        plan, open_files = self.field.plan, dict[tuple[int, int], Any]()

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


def peers_of(field: Field, butler_targets: int, peer_targets: int) -> tuple[list[Way], list[str]]:
    """Return the ways that work here, and why others do not.

    None of them keeps decoded pixels, so that fewer targets than ours cost each as much.
    """
    ways: list[Way] = []
    left_out = []
    butler = ButlerWay(field, _some(field.rows, butler_targets))
    if butler.needs_stack:
        butler.close()
        left_out.append(f"{field.scene}: butler.get needs the LSST stack for files written by afw")
    else:
        ways.append(butler)
    if not all(Path(path).exists() for _, _, _, path in field.files()):
        left_out.append(f"{field.scene}: astropy and fitsio read files of this machine only")
        return ways, left_out
    ways.append(AstropyWay(field, _some(field.rows, peer_targets)))
    if find_spec("fitsio"):
        ways.append(FitsioWay(field, _some(field.rows, peer_targets)))
    else:
        left_out.append("fitsio is not installed: pip install fitsio")
    return ways, left_out


def _some(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return rows spread evenly over all of them, at most so many."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]
