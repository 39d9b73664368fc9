"""The planner: asks the Butler in bulk and in one thread, before any pixel is read.

It asks for the tracts that hold targets, then for the coadds of every patch under a box, all bands at once.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..butler import LocatedFile, Repository, as_names
from ..catalog import Catalog
from ..errors import CorruptFileError, CoverageError, PlaneError, ReadError, UnsupportedFormatError
from ..fits import Coadd, PlaneLayout, open_coadd
from ..geom import YX
from ..plan import CutoutPlan, FileTable, PatchTable, Reason, Rejected
from ..skymap import SkyMap, Tract, check_projection
from .arguments import AngularSize, SizeLike, parse_bands, parse_size, parse_tract
from .boxes import Boxes, PatchRanges, covered_pixels, patch_key, patch_of_key

__all__ = ["Planner", "build_plan"]

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]

BLOCK_SIDE = 750
"""Side of a square locality block, pixels: a quarter of a DP2 patch's inner side, 25 of its tiles.

A block of six bands holds 13.5 MB of decoded pixels, so the default shuffle width keeps 430 MB open. Row tiles make
full-width strips of the same area instead."""


@dataclass(frozen=True)
class _Sample:
    """What one file tells about all of its kind."""

    border: YX[int]
    block_shape: YX[int]
    tile_bytes: float
    psf_shape: YX[int] | None
    pixel_scale: YX[float]


class Planner:
    """Makes plans for one repository and remembers what it was told, absences too.

    Parameters
    ----------
    repository
        Open repository; asked only for tracts and patches that are not known yet.
    bands
        Channel order.
    size
        Rows and columns, as `parse_size` takes them; angles become the nearest whole number of the tract's pixels.
    tract
        ``"primary"``, or ``"best"`` for the tract whose files cover most of a target's box.
    """

    def __init__(
        self, repository: Repository, bands: str | Iterable[str], size: SizeLike, tract: str = "primary"
    ) -> None:
        self.repository = repository
        self.bands = parse_bands(bands)
        self.size = parse_size(size)
        self.tract = parse_tract(tract)
        repository.check_bands(self.bands)
        self.forget()

    def forget(self) -> None:
        """Forget every answer of the repository."""
        self._tracts: dict[int, Tract | None] = {}
        self._all_tracts = False
        self._files: dict[tuple[int, int], dict[str, LocatedFile]] = {}
        self._known_sample: _Sample | None = None
        self._clipped: bool | None = None

    def plan(self, catalog: Catalog) -> CutoutPlan:
        """Return the plan of a catalog; rows that cannot be delivered are in its ``rejected``.

        Raises
        ------
        CoverageError
            If not one row can be delivered.
        """
        sample = self._sample()
        size = self.size.pixels(sample.pixel_scale) if isinstance(self.size, AngularSize) else self.size
        skymap = self._skymap(catalog.ra, catalog.dec)
        tract = skymap.find(catalog.ra, catalog.dec)
        if self.tract == "best":
            tract = self._best_tract(catalog, tract, size)
            skymap = self._known_skymap()
        inside = np.flatnonzero(tract >= 0)
        boxes = Boxes.around(skymap, tract[inside], catalog.ra[inside], catalog.dec[inside], size)
        start, others = PatchRanges.under(boxes, skymap, size, sample.border).others(boxes)
        patches, files, primary, others = self._tables(skymap, boxes, others)
        has_file = (patches.files >= 0).any(axis=1)
        covered = has_file[primary]
        owner = np.repeat(np.arange(len(inside)), np.diff(start))
        covered[owner[has_file[others]]] = True
        keep = np.flatnonzero(covered)
        if not len(keep):
            raise CoverageError(self._nothing_covered(catalog, len(inside)))
        reason = np.where(tract < 0, Reason.OUTSIDE_TRACTS, Reason.NO_COADD).astype(np.uint8)
        lost = np.setdiff1d(np.arange(len(catalog)), inside[keep])
        kept_start = np.concatenate([[0], np.cumsum(np.diff(start)[keep])]).astype(np.int64)
        row = inside[keep]
        return CutoutPlan(
            repo=self.repository.name,
            collections=self.repository.collections,
            dataset_type=self.repository.dataset_type,
            skymap=self.repository.skymap,
            bands=self.bands,
            size=size,
            block_shape=sample.block_shape,
            border=sample.border,
            psf_shape=sample.psf_shape,
            row=row,
            object_id=catalog.object_id[row],
            ra=catalog.ra[row],
            dec=catalog.dec[row],
            primary=primary[keep].astype(np.int32),
            yx0=boxes.yx0[keep].astype(np.int32),
            offset=boxes.offset[keep],
            others_start=kept_start,
            others=others[covered[owner]],
            patches=patches,
            files=files,
            projections={t: skymap.tracts[t].projection for t in np.unique(tract[row]).tolist()},
            rejected=Rejected(lost, catalog.object_id[lost], catalog.ra[lost], catalog.dec[lost], reason[lost]),
            columns=catalog[row].columns,
            tile_bytes=sample.tile_bytes,
        )

    def _skymap(self, ra: Floats, dec: Floats) -> SkyMap:
        """Return the skymap with every tract that may be the primary one of a position."""
        rings = self.repository.rings
        if rings is not None:
            self._learn(rings.find(ra, dec))
        elif not self._all_tracts:
            self._tracts.update(self.repository.skymap_of().tracts)
            self._all_tracts = True
        return self._known_skymap()

    def _learn(self, tracts: Ints) -> None:
        """Ask the repository for those of the tracts that were not asked for before."""
        wanted = [t for t in np.unique(tracts).tolist() if t not in self._tracts]
        if wanted:
            found = self.repository.skymap_of(wanted).tracts
            self._tracts.update({number: found.get(number) for number in wanted})

    def _known_skymap(self) -> SkyMap:
        tracts = {t: v for t, v in self._tracts.items() if v is not None}
        return SkyMap(self.repository.skymap, tracts, self.repository.rings)

    def _best_tract(self, catalog: Catalog, primary: Ints, size: YX[int]) -> Ints:
        """Return the tract of each target whose files cover most of its box; the primary one where none covers more.

        Only targets that the primary tract does not cover wholly, in every band, are looked at again.
        """
        best = primary.copy()
        pixels = np.zeros(len(catalog), np.int64)
        inside = np.flatnonzero(primary >= 0)
        pixels[inside] = self._covered_pixels(catalog.ra[inside], catalog.dec[inside], primary[inside], size)
        torn = np.flatnonzero(pixels < size.y * size.x * len(self.bands))
        margin = float(np.max(np.asarray(size) / 2 + np.asarray(self._sample().border)))
        row, tract = self._known_skymap().near(catalog.ra[torn], catalog.dec[torn], margin)
        self._learn(tract)
        row = torn[row]
        other = (tract != primary[row]) & np.isin(tract, list(self._known_skymap().tracts))
        row, tract = row[other], tract[other]
        covered = self._covered_pixels(catalog.ra[row], catalog.dec[row], tract, size)
        more = covered > pixels[row]
        row, tract, covered = row[more], tract[more], covered[more]
        # The last assignment to a row stays: the greatest coverage, of equal ones the lowest tract number.
        order = np.lexsort((-tract, covered))
        best[row[order]] = tract[order]
        return best

    def _covered_pixels(self, ra: Floats, dec: Floats, tract: Ints, size: YX[int]) -> Ints:
        """Return ``(N,)`` pixels, summed over the bands, that the files of given tracts hold of boxes around positions."""
        border, skymap = self._sample().border, self._known_skymap()
        boxes = Boxes.around(skymap, tract, ra, dec, size)
        ranges = PatchRanges.under(boxes, skymap, size, border)
        owner, patch = ranges.patches()
        unique, index = np.unique(patch_key(tract[owner], patch), return_inverse=True)
        pairs = [patch_of_key(key) for key in unique.tolist()]
        found = self._locate(pairs)
        has_file = np.array([[band in found[pair] for band in self.bands] for pair in pairs], bool)
        has_file = has_file.reshape(len(pairs), len(self.bands))[index.reshape(-1)]  # (M, B)
        return covered_pixels(boxes.yx0, size, ranges, has_file, border, clipped=self._is_clipped())

    def _is_clipped(self) -> bool:
        """Return whether files end where their tract does, as one at the edge of a tract tells.

        Skymaps of cells let the outermost patches leave the tract, older ones do not. Without any such file it
        makes no difference.
        """
        if self._clipped is None:
            self._clipped = self._read_clipped()
        return bool(self._clipped)

    def _read_clipped(self) -> bool | None:
        for (number, patch), files in self._files.items():
            tract = self._tracts[number]
            if not files or tract is None or not tract.is_at_edge(patch):
                continue
            try:
                one = next(iter(files.values()))
                with open_coadd(one.uri, size=one.size) as coadd:
                    return tract.bbox.contains(coadd.bbox)
            except ReadError:
                continue  # a broken file is for the reader to find
        return None

    def _tables(self, skymap: SkyMap, boxes: Boxes, others: Ints) -> tuple[PatchTable, FileTable, Ints, Ints]:
        """Return the tables of patches and files, and the rows of primary and other patches in them."""
        keys = np.concatenate([patch_key(boxes.tract, boxes.patch), others])
        unique, rows = np.unique(keys, return_inverse=True)
        pairs = [patch_of_key(key) for key in unique.tolist()]
        found = self._locate(pairs)
        flat = [found[pair].get(band) for pair in pairs for band in self.bands]
        present = [f for f in flat if f is not None]
        number = np.cumsum([f is not None for f in flat], dtype=np.int64) - 1
        files = np.where([f is not None for f in flat], number, -1).reshape(len(pairs), len(self.bands))
        table = PatchTable(
            tract=np.array([t for t, _ in pairs], np.int64),
            patch=np.array([p for _, p in pairs], np.int64),
            inner=np.array([skymap.tracts[t].inner_box(p) for t, p in pairs], np.int64).reshape(-1, 4),
            files=files,
        )
        file_table = FileTable(
            tuple(f.uri for f in present), tuple(f.size for f in present), tuple(f.dataset_id for f in present)
        )
        rows = rows.reshape(-1)
        return table, file_table, rows[: len(boxes.tract)], rows[len(boxes.tract) :]

    def _locate(self, pairs: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], Mapping[str, LocatedFile]]:
        unknown = [pair for pair in pairs if pair not in self._files]
        if unknown:
            # Asked before anything is noted: a query that fails must not leave "absent" behind.
            located = self.repository.locate(unknown, self.bands)
            self._files.update({pair: {} for pair in unknown})
            for one in located:
                self._files[one.tract, one.patch][one.band] = one
        return self._files

    def _sample(self) -> _Sample:
        """Return border, block shape and compression of the first coadd that can be read."""
        if self._known_sample is None:
            self._known_sample = self._read_sample()
        return self._known_sample

    def _read_sample(self) -> _Sample:
        failure: ReadError | None = None
        for one in self.repository.samples():
            try:
                return self._measure(one)
            except ReadError as error:
                failure = error
        if failure is None:
            raise CoverageError(f"there is no {self.repository.where}")
        raise failure

    def _measure(self, one: LocatedFile) -> _Sample:
        tract = self.repository.skymap_of([one.tract]).tracts[one.tract]
        inner = tract.inner_box(one.patch)
        with open_coadd(one.uri, size=one.size) as coadd:
            whose = f"tract {one.tract} of skymap {self.repository.skymap!r}"
            check_projection(coadd.projection, tract.projection, coadd.bbox, one.uri, whose)
            bbox, layout, psf_shape = coadd.bbox, coadd.layout("image"), _psf_shape(coadd)
        border = YX(y=max(inner.y0 - bbox.y0, bbox.y1 - inner.y1, 0), x=max(inner.x0 - bbox.x0, bbox.x1 - inner.x1, 0))
        return _Sample(
            border, _block_shape(layout), layout.compressed_bytes / bbox.area, psf_shape, tract.projection.pixel_scale
        )

    def _nothing_covered(self, catalog: Catalog, in_tracts: int) -> str:
        places = {one.tract: one.patch for one in self.repository.samples()}
        tracts = self.repository.skymap_of(list(places)).tracts
        where = "; ".join(_place(tracts[tract], patch) for tract, patch in places.items())
        return (
            f"none of the {len(catalog)} targets ({catalog.source}) is covered: {len(catalog) - in_tracts} lie in no tract, "
            f"{in_tracts} on patches without coadds in {''.join(self.bands)}. First target: ra {catalog.ra[0]:.4f}, dec "
            f"{catalog.dec[0]:.4f} (degrees). There is {self.repository.where}, for example for {where}"
        )


def _place(tract: Tract, patch: int) -> str:
    """Return where a patch is, for people."""
    inner = tract.inner_box(patch)
    ra, dec = tract.projection.pixel_to_sky((inner.y0 + inner.y1 - 1) / 2, (inner.x0 + inner.x1 - 1) / 2)
    return f"tract {tract.id}, patch {patch} around ra {float(ra):.2f}, dec {float(dec):.2f}"


def build_plan(
    catalog: object,
    repo: str | os.PathLike[str] | Any,
    *,
    collections: str | Sequence[str],
    bands: str | Iterable[str],
    size: SizeLike,
    dataset_type: str = "deep_coadd",
    skymap: str | None = None,
    tract: str = "primary",
    columns: Sequence[str] = (),
) -> CutoutPlan:
    """Return the plan that says, for every target of a catalog, which box of which files to read.

    Parameters
    ----------
    catalog
        A `Catalog`, or anything that `Catalog.from_any` reads: a path, a table, arrays.
    repo
        Path, label or URL of a Butler repository, or an open Butler.
    collections
        Collection name or names, searched in order.
    bands
        One-letter bands as one string, or names; the channel order of the cutouts.
    size
        Whole pixels, or an angle such as ``"12 arcsec"`` (the nearest whole number of the tract's pixels): one
        for both sides, or ``(height, width)``.
    dataset_type, skymap
        What to read; the skymap defaults to the one that the coadds have.
    tract
        Where tracts overlap: ``"primary"`` is the one that the skymap gives the position to, ``"best"`` the one whose
        files cover most pixels of the box, on average over the bands; equal ones go to the primary tract.
    columns
        Catalog columns that travel with the samples.

    Raises
    ------
    CatalogError, ConfigurationError
        If an argument cannot work.
    RepositoryError, CollectionError, DatasetError, SkyMapError
        If the repository does not hold what is named.
    CoverageError
        If no target is covered by any coadd.
    """
    bands, size, tract = parse_bands(bands), parse_size(size), parse_tract(tract)
    targets = Catalog.from_any(catalog, columns=as_names(columns))
    with Repository(repo, as_names(collections), dataset_type, skymap) as repository:
        return Planner(repository, bands, size, tract).plan(targets)


def _block_shape(layout: PlaneLayout) -> YX[int]:
    """Return a block of whole cache units with about the area of a square of `BLOCK_SIDE`."""
    unit = layout.unit_shape
    columns = max(1, round(BLOCK_SIDE / unit.x)) * unit.x
    rows = max(1, round(BLOCK_SIDE * BLOCK_SIDE / columns / unit.y)) * unit.y
    return YX(y=rows, x=columns)


def _psf_shape(coadd: Coadd) -> YX[int] | None:
    """Return the shape of a file's PSF kernels; None where it has none, or none that can be read here."""
    try:
        return coadd.psf.kernel_shape
    except (PlaneError, CorruptFileError, UnsupportedFormatError):
        return None
