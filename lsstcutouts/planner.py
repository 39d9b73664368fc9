"""From a catalog and a repository to a plan: which box, which files, for every target.

The Butler is asked in bulk and in one thread, before any pixel is read: for the tracts that hold targets, then
for the coadds of every patch under a box, all bands at once.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .butler import LocatedFile, Repository, as_names
from .catalog import Catalog
from .errors import ConfigurationError, CoverageError, ReadError
from .fits import PlaneLayout, open_coadd
from .geom import YX, box_start
from .plan import CutoutPlan, FileTable, PatchTable, Reason, Rejected, ragged
from .skymap import SkyMap, Tract, check_projection

__all__ = ["Planner", "build_plan", "parse_bands", "parse_size"]

type Ints = NDArray[np.int64]

BLOCK_SIDE = 750
"""Side of a square locality block, pixels: a quarter of a DP2 patch's inner side, 25 of its tiles.

A block of six bands holds 13.5 MB of decoded pixels, so the default shuffle width keeps 430 MB open. Row tiles make
full-width strips of the same area instead."""


def parse_bands(bands: str | Iterable[str]) -> tuple[str, ...]:
    """Return band names from a string of one-letter bands, or from names."""
    names = tuple(bands)
    if not names or any(not isinstance(b, str) or not b for b in names):
        raise ConfigurationError(f"bands must be a string such as 'gri' or a list of names, got {bands!r}")
    twice = sorted({b for b in names if names.count(b) > 1})
    if twice:
        raise ConfigurationError(f"bands name {', '.join(twice)} more than once: {bands!r}")
    return names


def parse_size(size: int | Sequence[int]) -> YX[int]:
    """Return rows and columns from one number of pixels or a pair ``(height, width)``."""
    pair = (size, size) if isinstance(size, int | np.integer) and not isinstance(size, bool) else size
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ConfigurationError(f"size must be a number of pixels or (height, width), got {size!r}")
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in pair):
        raise ConfigurationError(f"size must be whole pixels, at least 1, got {size!r}")
    return YX(y=int(pair[0]), x=int(pair[1]))


@dataclass(frozen=True)
class _Sample:
    """What one file tells about all of its kind."""

    border: YX[int]
    block_shape: YX[int]
    tile_bytes: float


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Boxes of ``(N,)`` targets on their tracts."""

    tract: Ints
    patch: Ints
    yx0: Ints
    offset: NDArray[np.float32]


class Planner:
    """Makes plans for one repository and remembers what it was told, absences too.

    Parameters
    ----------
    repository
        Open repository; asked only for tracts and patches that are not known yet.
    bands
        Channel order.
    size
        Rows and columns, pixels.
    """

    def __init__(self, repository: Repository, bands: str | Iterable[str], size: int | Sequence[int]) -> None:
        self.repository = repository
        self.bands = parse_bands(bands)
        self.size = parse_size(size)
        repository.check_bands(self.bands)
        self.forget()

    def forget(self) -> None:
        """Forget every answer of the repository."""
        self._tracts: dict[int, Tract | None] = {}
        self._all_tracts = False
        self._files: dict[tuple[int, int], dict[str, LocatedFile]] = {}
        self._known_sample: _Sample | None = None

    def plan(self, catalog: Catalog) -> CutoutPlan:
        """Return the plan of a catalog; rows that cannot be delivered are in its ``rejected``.

        Raises
        ------
        CoverageError
            If not one row can be delivered.
        """
        sample = self._sample()
        skymap = self._skymap(catalog.ra, catalog.dec)
        tract = skymap.find(catalog.ra, catalog.dec)
        inside = np.flatnonzero(tract >= 0)
        boxes = _boxes(skymap, tract[inside], catalog.ra[inside], catalog.dec[inside], self.size)
        start, others = _others(boxes, skymap, self.size, sample.border)
        patches, files, primary, others = self._tables(skymap, boxes, others)
        owner = np.repeat(np.arange(len(inside)), np.diff(start))
        has_file = (patches.files >= 0).any(axis=1)
        covered = has_file[primary]
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
            size=self.size,
            block_shape=sample.block_shape,
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

    def _skymap(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> SkyMap:
        """Return the skymap with every tract that may hold a position, asking for those not seen before."""
        rings = self.repository.rings
        if rings is not None:
            wanted = [t for t in np.unique(rings.find(ra, dec)).tolist() if t not in self._tracts]
            if wanted:
                found = self.repository.skymap_of(wanted).tracts
                self._tracts.update({number: found.get(number) for number in wanted})
        elif not self._all_tracts:
            self._tracts.update(self.repository.skymap_of().tracts)
            self._all_tracts = True
        return SkyMap(self.repository.skymap, {t: v for t, v in self._tracts.items() if v is not None}, rings)

    def _tables(self, skymap: SkyMap, boxes: _Boxes, others: Ints) -> tuple[PatchTable, FileTable, Ints, Ints]:
        """Return the tables of patches and files, and the rows of primary and other patches in them."""
        keys = np.concatenate([_patch_key(boxes.tract, boxes.patch), others])
        unique, rows = np.unique(keys, return_inverse=True)
        pairs = [(int(k) >> 32, int(k) & 0xFFFFFFFF) for k in unique]
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
        with open_coadd(one.uri) as coadd:
            check_projection(coadd.projection, tract.projection, coadd.bbox, one.uri)
            bbox, layout = coadd.bbox, coadd.layout("image")
        border = YX(y=max(inner.y0 - bbox.y0, bbox.y1 - inner.y1, 0), x=max(inner.x0 - bbox.x0, bbox.x1 - inner.x1, 0))
        return _Sample(border, _block_shape(layout), layout.compressed_bytes / bbox.area)

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
    size: int | Sequence[int],
    dataset_type: str = "deep_coadd",
    skymap: str | None = None,
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
        Pixels: one number, or ``(height, width)``.
    dataset_type, skymap
        What to read; the skymap defaults to the one that the coadds have.
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
    targets = Catalog.from_any(catalog, columns=as_names(columns))
    with Repository(repo, as_names(collections), dataset_type, skymap) as repository:
        return Planner(repository, bands, size).plan(targets)


def _block_shape(layout: PlaneLayout) -> YX[int]:
    """Return a block of whole cache units with about the area of a square of `BLOCK_SIDE`."""
    unit = layout.unit_shape
    columns = max(1, round(BLOCK_SIDE / unit.x)) * unit.x
    rows = max(1, round(BLOCK_SIDE * BLOCK_SIDE / columns / unit.y)) * unit.y
    return YX(y=rows, x=columns)


def _patch_key(tract: Ints, patch: Ints) -> Ints:
    return (tract << 32) + patch


def _boxes(skymap: SkyMap, tract: Ints, ra: NDArray[np.float64], dec: NDArray[np.float64], size: YX[int]) -> _Boxes:
    """Return the box of each target on its tract: the one place where sky becomes pixels."""
    patch = np.zeros(len(tract), np.int64)
    centre = np.zeros((len(tract), 2))
    for number in np.unique(tract).tolist():
        rows = np.flatnonzero(tract == number)
        yx = skymap.tracts[number].projection.sky_to_pixel(ra[rows], dec[rows])
        patch[rows] = skymap.tracts[number].patch_at(yx.y, yx.x)
        centre[rows] = np.column_stack([yx.y, yx.x])
    yx0 = box_start(centre, size)  # (N, 2)
    offset = centre - (yx0 + (np.asarray(size) - 1) / 2)
    return _Boxes(tract, patch, yx0, offset.astype(np.float32))


def _others(boxes: _Boxes, skymap: SkyMap, size: YX[int], border: YX[int]) -> tuple[Ints, Ints]:
    """Return, as in `ragged`, the keys of the patches besides the primary one whose files may reach under each box."""
    found: list[list[int]] = [[] for _ in boxes.tract]
    for number in np.unique(boxes.tract).tolist():
        tract = skymap.tracts[number]
        rows = np.flatnonzero(boxes.tract == number)
        step, grid, reach = np.asarray(tract.inner), np.asarray(tract.grid), np.asarray(border)
        low = np.clip((boxes.yx0[rows] - reach) // step, 0, grid - 1)
        high = np.clip((boxes.yx0[rows] + np.asarray(size) - 1 + reach) // step, 0, grid - 1)
        for i in np.flatnonzero((high > low).any(axis=1)).tolist():
            (y0, x0), (y1, x1) = low[i].tolist(), high[i].tolist()
            under = [y * tract.grid.x + x for y in range(y0, y1 + 1) for x in range(x0, x1 + 1)]
            found[rows[i]] = [(number << 32) + p for p in under if p != boxes.patch[rows[i]]]
    return ragged(found)
