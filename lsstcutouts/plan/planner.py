"""The planner: asks the Butler in bulk and in one thread, before any pixel is read.

It asks for the tracts that hold targets, then for the coadds of every patch under a box, all bands at once.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog.targets import Catalog
from ..errors import CoverageError, ReadError
from ..fits.coadd import open_coadd
from ..sky.geometry import YX, TanProjection
from ..sky.skymap import SkyMap, Tract
from .arguments import AngularSize, SizeLike, parse_bands, parse_size
from .boxes import PatchRanges, TargetBoxes, covered_pixels, patch_key, patch_of_key
from .cutout_plan import CutoutPlan
from .drawing import drawn_catalog
from .grid import Grid
from .grid_planner import GriddedTargets
from .locations import LocatedFile
from .parts import BoxesUnder, PlanPart, taken
from .read_options import TRACTS, ReadOptions, check_choice
from .repository import Repository, as_names
from .sample import CoaddSample, first_sample
from .tables import FileTable, PatchTable, Reason, Rejected

__all__ = ["Planner", "build_plan"]

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]

_AT_ONCE = 1 << 18
"""Rows of a catalog that are planned at a time: 60 MB of what is needed only meanwhile."""

_HINTED = 1000
"""Number of targets that are tested when an error message suggests other units or swapped columns."""


class Planner:
    """Makes plans for one repository. Keeps every answer of the repository, including missing coadds.

    Parameters
    ----------
    repository
        Open repository; asked only for tracts and patches that are not known yet.
    bands
        Channel order.
    size
        Rows and columns, as `parse_size` takes them; angles are rounded to the nearest integer number of tract pixels.
    tract
        Where tracts overlap, one of `TRACTS`.
    """

    def __init__(
        self, repository: Repository, bands: str | Iterable[str], size: SizeLike, tract: str = "primary"
    ) -> None:
        self.repository = repository
        self.bands = parse_bands(bands)
        self.size = parse_size(size)
        check_choice("tract", tract, TRACTS)
        self.tract = tract
        repository.check_bands(self.bands)
        self.forget()

    def forget(self) -> None:
        """Forget every answer of the repository."""
        self.repository.forget()
        self._tracts: dict[int, Tract | None] = {}
        self._every_tract: SkyMap | None = None
        self._tracts_with_coadds: set[int] | None = None
        self._files: dict[tuple[int, int], dict[str, LocatedFile]] = {}
        self._known_sample: CoaddSample | None = None
        self._clipped: bool | None = None

    def plan(
        self, catalog: Catalog, *, hints: bool = True, may_be_empty: bool = False, grid: Grid | None = None
    ) -> CutoutPlan:
        """Return the plan of a catalog, or of drawn positions; rows that cannot be delivered are in its ``rejected``.

        Where nothing is covered, the error says whether other units or the columns swapped would be, unless ``hints`` is
        false. With a ``grid``, the cutouts are on it instead of the tract's pixel grid.

        Raises
        ------
        CoverageError
            If not one row can be delivered, unless the plan ``may_be_empty``.
        """
        catalog, sample = drawn_catalog(self, catalog, grid), self.sample()
        if grid is None:
            size = self.size.pixels(sample.pixel_scale) if isinstance(self.size, AngularSize) else self.size
            parts, gridded = self.parts(catalog, size), None
        else:
            gridded = GriddedTargets(self, catalog, grid)
            size, parts = gridded.size, gridded.parts
        every = parts if gridded is None else [*parts, gridded.further]
        patches, files, primary, others = self._tables(every)
        rejected = Rejected.joined([part.rejected for part in parts])
        if not may_be_empty and not any(len(part.row) for part in parts):
            raise CoverageError(self._nothing_covered(catalog, rejected) + (self._hint(catalog) if hints else ""))
        row = taken(parts, "row")
        start = np.concatenate([[0], np.cumsum(taken(parts, "others_count"), dtype=np.int64)])
        count, many = len(row), int(start[-1])
        kept = catalog if len(row) == len(catalog) else catalog[row]
        return CutoutPlan(
            repo=self.repository.name,
            collections=self.repository.collections,
            dataset_type=self.repository.dataset_type,
            skymap=self.repository.skymap,
            bands=self.bands,
            size=size,
            block_shape=sample.block_shape,
            tile_shape=sample.tile_shape,
            border=sample.border,
            psf_shape=sample.psf_shape if gridded is None else gridded.psf_shape,
            row=row,
            object_id=kept.object_id,
            ra=kept.ra,
            dec=kept.dec,
            primary=primary[:count],
            other_tract=taken(parts, "other_tract"),
            yx0=taken(parts, "yx0"),
            offset=taken(parts, "offset"),
            others_start=start,
            others=others[:many],
            patches=patches,
            files=files,
            projections={t: self.projection(t) for t in sorted({t for part in every for t in part.tracts})},
            rejected=rejected,
            columns=kept.columns,
            tile_bytes=sample.tile_bytes,
            grid=None if gridded is None else gridded.plan(primary[count:], others[many:]),
        )

    def parts(self, catalog: Catalog, size: YX[int]) -> list[PlanPart]:
        """Return the plans of the rows of a catalog for boxes of a size, pixels of the tract; at most so many rows at once."""
        return [self._part(catalog, at, size) for at in range(0, max(1, len(catalog)), _AT_ONCE)]

    def _part(self, catalog: Catalog, at: int, size: YX[int]) -> PlanPart:
        """Plan the rows of a catalog from one on, at most `_AT_ONCE`."""
        catalog = catalog[at : at + _AT_ONCE]
        own = self._own_tract(catalog.ra, catalog.dec)
        unknown = [t for t in _distinct(own) if self._tracts.get(t) is None]
        tract = np.where(np.isin(own, unknown), -1, own) if unknown else own.copy()
        if self.tract == "best":
            tract = self._best_tract(catalog, tract, own, size)
        under = self.under(catalog, tract, size)
        gone = np.ones(len(catalog), bool)
        gone[under.row[under.covered]] = False
        lost = np.flatnonzero(gone)
        if self.tract == "primary" and len(lost):
            row, other, _ = self._elsewhere(catalog, lost, own, size)
            if len(row):
                tract[row] = other
                under = self.under(catalog, tract, size)
                lost = np.setdiff1d(lost, row)
        rejected = self._rejected(catalog, lost, own, under)
        keep = np.flatnonzero(under.covered)
        row, count = under.row[keep], np.diff(under.others_start)
        return PlanPart(
            row=row + at,
            primary=under.primary[keep].astype(np.int32),
            other_tract=tract[row] != own[row],
            yx0=under.boxes.yx0[keep].astype(np.int32),
            offset=under.boxes.offset[keep],
            others_count=count[keep].astype(np.int32),
            others=under.others[np.repeat(under.covered, count)].astype(np.int32),
            keys=under.keys,
            tracts=_distinct(tract[row]),
            rejected=replace(rejected, row=rejected.row + at),
        )

    def _own_tract(self, ra: Floats, dec: Floats) -> Ints:
        """Return the tract that the skymap assigns to each position, -1 for none, and load these tracts."""
        rings = self.repository.rings
        if rings is not None:
            own = rings.find(ra, dec)
            self._load_tracts(own)
            return own
        if self._every_tract is None:
            self._every_tract = self.repository.skymap_of()
            self._tracts.update(self._every_tract.tracts)
        return self._every_tract.find(ra, dec)

    def _load_tracts(self, tracts: Ints) -> None:
        """Ask the repository for those of the tracts that were not asked for before."""
        wanted = [t for t in _distinct(tracts) if t not in self._tracts]
        if wanted:
            found = self.repository.skymap_of(wanted).tracts
            self._tracts.update({number: found.get(number) for number in wanted})

    def _known_skymap(self) -> SkyMap:
        tracts = {t: v for t, v in self._tracts.items() if v is not None}
        return SkyMap(self.repository.skymap, tracts, self.repository.rings)

    def projection(self, tract: int) -> TanProjection:
        """Return the projection of a tract that holds targets, or is near one."""
        known = self._tracts[tract]
        assert known is not None
        return known.projection

    def under(self, catalog: Catalog, tract: Ints, size: YX[int]) -> BoxesUnder:
        """Return the boxes of the rows that have a tract, and the patches and files under them."""
        row, skymap = np.flatnonzero(tract >= 0), self._known_skymap()
        boxes = TargetBoxes.around(skymap, tract[row], catalog.ra[row], catalog.dec[row], size)
        start, others = PatchRanges.under(boxes, skymap, size, self.sample().border).others(boxes)
        keys, rows = np.unique(np.concatenate([patch_key(boxes.tract, boxes.patch), others]), return_inverse=True)
        primary, others = rows[: len(row)], rows[len(row) :]
        pairs = [patch_of_key(key) for key in keys.tolist()]
        found = self._locate(pairs)
        has_file = np.array([any(band in found[pair] for band in self.bands) for pair in pairs], bool)
        covered = has_file[primary]
        covered[np.repeat(np.arange(len(row)), np.diff(start))[has_file[others]]] = True
        return BoxesUnder(row, boxes, start, others, primary, covered, keys)

    def _best_tract(self, catalog: Catalog, primary: Ints, own: Ints, size: YX[int]) -> Ints:
        """Return the tract of each target whose files cover most of its box; its own where none covers more.

        Only targets that their own tract does not cover wholly, in every band, are looked at again.
        """
        best = primary.copy()
        pixels = np.zeros(len(catalog), np.int64)
        inside = np.flatnonzero(primary >= 0)
        pixels[inside] = self.covered_pixels(catalog.ra[inside], catalog.dec[inside], primary[inside], size)
        partial = np.flatnonzero(pixels < size.y * size.x * len(self.bands))
        row, tract, covered = self._elsewhere(catalog, partial, own, size)
        more = covered > pixels[row]
        best[row[more]] = tract[more]
        return best

    def _elsewhere(self, catalog: Catalog, rows: Ints, own: Ints, size: YX[int]) -> tuple[Ints, Ints, Ints]:
        """Return for each row that a tract besides its own covers: row, the tract that covers most, pixels covered.

        Of tracts that cover equally much, summed over the bands, the one with the lowest number.
        """
        row, tract = self.near(catalog.ra[rows], catalog.dec[rows], size)
        row = rows[row]
        other = tract != own[row]
        row, tract = row[other], tract[other]
        pixels = self.covered_pixels(catalog.ra[row], catalog.dec[row], tract, size)
        order = np.lexsort((tract, -pixels, row))
        row, tract, pixels = row[order], tract[order], pixels[order]
        first = np.diff(row, prepend=-1) > 0
        chosen = first & (pixels > 0)
        return row[chosen], tract[chosen], pixels[chosen]

    def near(self, ra: Floats, dec: Floats, size: YX[int]) -> tuple[Ints, Ints]:
        """Return pairs ``(row, tract)``, ``(M,)`` each: every tract with coadds that may reach under a box around a position."""
        margin = float(np.max(np.asarray(size) / 2 + np.asarray(self.sample().border)))
        row, tract = self._known_skymap().near(ra, dec, margin)
        held = _among(tract, self._held())
        self._load_tracts(tract[held])
        return row[held], tract[held]

    def _held(self) -> set[int]:
        """Return the tracts that have coadds."""
        if self._tracts_with_coadds is None:
            self._tracts_with_coadds = set(self.repository.tracts())
        return self._tracts_with_coadds

    def covered_pixels(self, ra: Floats, dec: Floats, tract: Ints, size: YX[int]) -> Ints:
        """Return ``(N,)`` pixels, summed over the bands, that the files of given tracts hold of boxes around positions."""
        border, skymap = self.sample().border, self._known_skymap()
        boxes = TargetBoxes.around(skymap, tract, ra, dec, size)
        ranges = PatchRanges.under(boxes, skymap, size, border)
        owner, patch = ranges.patches()
        unique, index = np.unique(patch_key(tract[owner], patch), return_inverse=True)
        pairs = [patch_of_key(key) for key in unique.tolist()]
        found = self._locate(pairs)
        has_file = np.array([[band in found[pair] for band in self.bands] for pair in pairs], bool)
        has_file = has_file.reshape(len(pairs), len(self.bands))[index.reshape(-1)]  # (M, B)
        return covered_pixels(boxes.yx0, size, ranges, has_file, border, clipped=self._is_clipped())

    def _is_clipped(self) -> bool:
        """Return whether files end at the edge of their tract, from a known skymap or from a file at that edge.

        Skymaps of cells let the outermost patches leave the tract, older ones do not. Without any such file it
        makes no difference.
        """
        rings = self.repository.rings
        if self._clipped is None:
            self._clipped = rings.clipped if rings is not None else self._read_clipped()
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
                continue  # the reader reports unreadable files
        return None

    def _tables(self, parts: Sequence[PlanPart]) -> tuple[PatchTable, FileTable, NDArray[np.int32], Ints]:
        """Return the tables of patches and files, and the rows of primary and other patches in them."""
        keys = np.unique(np.concatenate([part.keys for part in parts]))
        skymap, pairs = self._known_skymap(), [patch_of_key(key) for key in keys.tolist()]
        flat = [self._files[pair].get(band) for pair in pairs for band in self.bands]
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
        rows = [np.searchsorted(keys, part.keys).astype(np.int32) for part in parts]
        primary = np.concatenate([of[part.primary] for of, part in zip(rows, parts, strict=True)])
        others = np.concatenate([of[part.others] for of, part in zip(rows, parts, strict=True)])
        for part in parts:
            del part.primary, part.others  # two copies of all of them would be too much
        return table, file_table, primary, others.astype(np.int64)

    def _locate(self, pairs: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], Mapping[str, LocatedFile]]:
        unknown = [pair for pair in pairs if pair not in self._files]
        if unknown:
            # Query before storing anything: after a failed query no coadd may be recorded as missing.
            located = self.repository.locate(unknown, self.bands)
            self._files.update({pair: {} for pair in unknown})
            for one in located:
                self._files[one.tract, one.patch][one.band] = one
        return self._files

    def sample(self) -> CoaddSample:
        """Return border, block shape and compression of the first coadd that can be read."""
        if self._known_sample is None:
            self._known_sample = first_sample(self.repository)
        return self._known_sample

    def _rejected(self, catalog: Catalog, rows: Ints, own: Ints, under: BoxesUnder) -> Rejected:
        """Return the rows that are not delivered, each with its own tract and what is missing there."""
        patch = np.full(len(catalog), -1, np.int64)
        patch[under.row] = under.boxes.patch
        in_tract = _among(own[rows], self._held()) if len(rows) else np.zeros(0, bool)
        left = catalog[rows]
        return Rejected(
            row=rows,
            object_id=left.object_id,
            ra=left.ra,
            dec=left.dec,
            reason=np.where(in_tract, Reason.NO_COADD, Reason.OUTSIDE_TRACTS).astype(np.uint8),
            tract=own[rows],
            patch=np.where(in_tract, patch[rows], -1),
            columns=left.columns,
        )

    def _nothing_covered(self, catalog: Catalog, rejected: Rejected) -> str:
        places = {one.tract: one.patch for one in self.repository.samples()}
        tracts = self.repository.skymap_of(list(places)).tracts
        where = "; ".join(_place(tracts[tract], patch) for tract, patch in places.items())
        return (
            f"none of the {len(catalog)} targets ({catalog.source}) is covered in {''.join(self.bands)}: "
            f"{'; '.join(rejected.lines())}. First target: ra {catalog.ra[0]:.4f}, dec {catalog.dec[0]:.4f} (degrees). "
            f"There is {self.repository.where}, for example for {where}"
        )

    def _hint(self, catalog: Catalog) -> str:
        """Return what the user may have meant, if that would be covered."""
        some = catalog[:_HINTED]
        east = np.where(some.ra > 180.0, some.ra - 360.0, some.ra)
        meant = {
            "RA is taken as degrees; as hours": (some.ra * 15.0, some.dec, "unit='hourangle,deg'"),
            "with RA and Dec swapped": (some.dec % 360.0, east, "ra= and dec= the other way round"),
        }
        for words, (ra, dec, remedy) in meant.items():
            if (ra > 360.0).any() or (np.abs(dec) > 90.0).any():
                continue
            try:
                covered = len(self.plan(Catalog(some.object_id, ra, dec), hints=False))
            except CoverageError:
                continue
            return f". {words}, {covered} of the first {len(some)} targets would be covered: give {remedy}"
        return ""


def _distinct(numbers: Ints) -> list[int]:
    """Return the different ones of numbers that are not negative, ascending; much faster than hashing them all."""
    return np.flatnonzero(np.bincount(numbers[numbers >= 0])).tolist()


def _among(numbers: Ints, chosen: Collection[int]) -> NDArray[np.bool_]:
    """Return which of the numbers are among the chosen ones."""
    return np.isin(numbers, np.fromiter(chosen, np.int64, len(chosen)))


def _place(tract: Tract, patch: int) -> str:
    """Return where a patch is, for people."""
    inner = tract.inner_box(patch)
    ra, dec = tract.projection.pixel_to_sky((inner.y0 + inner.y1 - 1) / 2, (inner.x0 + inner.x1 - 1) / 2)
    return f"tract {tract.id}, patch {patch} around ra {float(ra):.2f}, dec {float(dec):.2f}"


def build_plan(
    repo: str | os.PathLike[str] | Any,
    catalog: object,
    *,
    collections: str | Sequence[str],
    bands: str | Iterable[str],
    size: SizeLike,
    dataset_type: str = "deep_coadd",
    columns: Sequence[str] = (),
    read: ReadOptions = ReadOptions(),
) -> CutoutPlan:
    """Return the plan that says, for every target of a catalog, which box of which files to read.

    Parameters
    ----------
    repo
        Path, label or URL of a Butler repository, or an open Butler.
    catalog
        A `Catalog`, or anything that `Catalog.from_any` reads: a path, a table, arrays; or a `Footprint`.
    collections
        Collection name or names, searched in order.
    bands
        One-letter bands as one string, or names; the channel order of the cutouts.
    size
        A number of pixels, or an angle such as ``"12 arcsec"`` (rounded to the nearest number of tract pixels): one
        for both sides, or ``(height, width)``.
    dataset_type
        Butler dataset type of the coadds.
    columns
        Catalog columns that travel with the samples.
    read
        `ReadOptions`, of which a plan uses ``tract``, ``skymap`` and ``grid``.

    Raises
    ------
    CatalogError, ConfigurationError
        If an argument cannot work.
    RepositoryError, CollectionError, DatasetError, SkyMapError
        If the repository does not hold what is named.
    CoverageError
        If no target is covered by any coadd.
    """
    bands, size = parse_bands(bands), parse_size(size)
    targets = Catalog.from_any(catalog, columns=as_names(columns))
    with Repository(repo, as_names(collections), dataset_type, read.skymap) as repository:
        return Planner(repository, bands, size, read.tract).plan(targets, grid=read.grid)
