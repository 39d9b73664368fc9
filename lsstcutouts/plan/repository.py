"""Queries a Butler repository for coadds, bands, tracts and skymaps."""

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError
from numpy.typing import NDArray

from ..errors import CollectionError, ConfigurationError, DatasetError, LsstCutoutsError, ReadError, SkyMapError
from ..errors.secrets import without_query
from ..fits.coadd import open_coadd
from ..sky.geometry import YX, Box, TanProjection
from ..sky.skymap import KNOWN_RINGS, SkyMap
from ..source.access import butler_token, origin_of
from ..source.patience import Patience
from ..source.retry import Retry
from .butler_errors import (
    open_butler,
    server_of,
    shown_server,
    suggest,
    translate_butler_errors,
    translate_file_errors,
    trust_repository,
)
from .locations import LocatedFile, locate_files
from .tracts import known_tract, outline_tract, tract_centre, tract_from_records

__all__ = ["Repository", "as_names"]

_DIMENSIONS = {"band", "skymap", "tract", "patch"}
_SAMPLES = 20
_RETRY = Retry()
"""Retries of queries. A `RemoteButler` itself waits up to 120 s for a byte or as long as the server asks (Retry-After); a
SQLite registry waits up to 300 s for a lock. Both waits count for the time limit of one minute here. A Butler server that is
away is waited for as long as one of files is, see `Patience`."""


def as_names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name or several names as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


class Repository:
    """A Butler repository, open for reading coadds of one dataset type.

    Parameters
    ----------
    repo
        Path, label or URL of the repository, or an open Butler (which stays open).
    collections
        Collection names, searched in order.
    dataset_type
        A dataset type with the dimensions tract, patch and band.
    skymap
        Name of the skymap; by default the skymap of the coadds.
    retry
        Number and duration of retries if the repository does not answer.

    Raises
    ------
    RepositoryNotFoundError, AuthenticationError, RepositoryUnavailableError, RepositoryError
        If there is no repository, or it cannot be queried.
    CollectionError, DatasetError, SkyMapError
        If the repository does not have this collection, dataset type or skymap; the message lists those it has.
    """

    def __init__(
        self,
        repo: str | os.PathLike[str] | Butler,
        collections: str | Sequence[str],
        dataset_type: str = "deep_coadd",
        skymap: str | None = None,
        *,
        retry: Retry = _RETRY,
    ) -> None:
        self.collections = as_names(collections)
        if not self.collections:
            raise CollectionError("no collection is given; give at least one, such as collections='dp2'")
        self.dataset_type = dataset_type
        self._patience = Patience(retry)
        self._pixel_scale: YX[float] | None = None
        self._samples: list[LocatedFile] | None = None
        self._records: dict[tuple[str, tuple[int, ...] | None], list[Any]] = {}
        self._repo = None if isinstance(repo, Butler) else repo
        if isinstance(repo, Butler):
            self.name, self._butler = "the Butler that was given", repo
            trust_repository(repo)
        else:
            self.name = without_query(str(repo))
            self._patience.call(lambda: self._open(repo), self.name, shown_server(repo))
        try:
            self._check_collections()
            self._check_dataset_type()
            self.skymap = self._choose_skymap(skymap)
            records = self._ask(
                "the skymap record", lambda butler: butler.query_dimension_records("skymap", skymap=self.skymap)
            )
            self.rings = KNOWN_RINGS.get(records[0].hash.hex())
        except LsstCutoutsError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def forget(self) -> None:
        """Forget the answers that are kept: a few coadds, and records of tracts and patches."""
        self._samples, self._pixel_scale = None, None
        self._records.clear()

    def close(self) -> None:
        """Close the Butler, if it was opened here."""
        if self._repo is not None:
            self._butler.close()

    def _open(self, repo: str | os.PathLike[str]) -> None:
        self._butler = open_butler(repo)
        url = server_of(self._butler)
        self._token = butler_token(url) if url else ""

    @property
    def where(self) -> str:
        """Repository, collections and dataset type, for messages."""
        return f"{self.dataset_type!r} in {', '.join(self.collections)} of {self.name!r}"

    def bands(self) -> tuple[str, ...]:
        """Return the bands that have coadds, sorted."""

        def run_query(butler: Butler) -> list[str]:
            with butler.query() as query:
                joined = query.join_dataset_search(self.dataset_type, self.collections).where(skymap=self.skymap)
                return [str(data_id["band"]) for data_id in joined.data_ids(["band"])]

        return tuple(sorted(self._ask("bands", run_query)))

    def check_bands(self, bands: Sequence[str]) -> None:
        """Raise `ConfigurationError` for a band that no coadd and no filter of the repository has.

        Both are needed: a subset made by ``Butler.transfer_from`` has no filter records, and a repository can have
        filters without coadds yet.
        """
        filters = self._ask(
            "physical_filter records",
            lambda butler: butler.query_dimension_records("physical_filter", explain=False, limit=None),
        )
        named = {record.band for record in filters}
        if named.issuperset(bands):
            return
        known = self.bands()
        for band in bands:
            # Without any coadd the band is not the problem; the missing coadds are reported later.
            if band not in named.union(known) and known:
                raise ConfigurationError(f"no band {band!r} in {self.where}{suggest(band, known)}")

    @property
    def storage_class(self) -> str:
        """Storage class of the coadds: ``CellCoadd`` for files of `lsst.images`, ``ExposureF`` for those of ``lsst.afw``."""
        return str(
            self._ask("dataset types", lambda butler: butler.get_dataset_type(self.dataset_type).storageClass_name)
        )

    def count(self, **data_id: int | str) -> int:
        """Return the number of coadds, or of those with the given ``band``, ``tract`` or ``patch``."""
        if unknown := sorted(data_id.keys() - _DIMENSIONS):
            raise ConfigurationError(
                f"coadds have no dimension {unknown[0]!r} ({self.where}){suggest(unknown[0], sorted(_DIMENSIONS))}"
            )

        def run_query(butler: Butler) -> int:
            with butler.query() as query:
                found = query.datasets(self.dataset_type, self.collections).where({"skymap": self.skymap, **data_id})
                return int(found.count())

        return self._ask(f"the number of coadds with {data_id}" if data_id else "the number of coadds", run_query)

    def tracts(self) -> list[int]:
        """Return the numbers of the tracts that have coadds, in ascending order."""

        def run_query(butler: Butler) -> list[int]:
            with butler.query() as query:
                joined = query.join_dataset_search(self.dataset_type, self.collections).where(skymap=self.skymap)
                return sorted(int(data_id["tract"]) for data_id in joined.data_ids(["tract"]))

        return self._ask("tracts", run_query)

    def coverage(self, bands: Sequence[str]) -> list[tuple[int, int, str]]:
        """Return tract, patch and band of every coadd in these bands, in ascending order, with one query."""

        def run_query(butler: Butler) -> list[tuple[int, int, str]]:
            with butler.query() as query:
                joined = query.join_dataset_search(self.dataset_type, self.collections).where(skymap=self.skymap)
                found = joined.where("band IN (:bands)", bind={"bands": list(bands)})
                ids = found.data_ids(["tract", "patch", "band"])
                return sorted((int(one["tract"]), int(one["patch"]), str(one["band"])) for one in ids)

        return self._ask("the coverage", run_query)

    def find(self, tract: int, patch: int, band: str) -> LocatedFile:
        """Return one coadd.

        If it does not exist, the error names the wrong part of the data ID; a Butler only says that there is no dataset.

        Raises
        ------
        ConfigurationError
            If no coadd and no filter of the repository has the band.
        SkyMapError
            If the skymap does not have the tract, or the tract does not have the patch.
        DatasetError
            If the patch has no coadd in the band.
        """
        found = self.locate([(tract, patch)], [band])
        if found:
            return found[0]
        self.check_bands([band])
        known = self.skymap_of([tract]).tracts.get(tract)
        if known is None:
            numbers = [str(number) for number in self.tracts()]
            raise SkyMapError(f"no tract {tract} in skymap {self.skymap!r}{suggest(str(tract), numbers)}")
        if not 0 <= patch < known.grid.y * known.grid.x:
            raise SkyMapError(
                f"no patch {patch} in tract {tract}, which has patches 0 to {known.grid.y * known.grid.x - 1}"
            )
        bands = sorted(one.band for one in self.locate([(tract, patch)], self.bands()))
        hint = f"; this patch has bands {', '.join(bands)}" if bands else "; this patch has no coadd in any band"
        raise DatasetError(f"no {self.where} for tract {tract}, patch {patch}, band {band}{hint}")

    def read_image(self, one: LocatedFile, box: Box) -> NDArray[np.float32]:
        """Return the image pixels of a box, ``(y, x)`` in the unit of the file, read by the Butler's own formatter.

        It is slow and independent of this package's readers, to compare with them. Only the storage class ``CellCoadd``
        can be read without the LSST stack.

        Raises
        ------
        ReadError
            If the Butler cannot read the pixels.
        DependencyError
            If the Butler needs the LSST stack to read them.
        """
        from lsst import images

        bbox = images.Box.factory[box.y0 : box.y1, box.x0 : box.x1]
        with translate_file_errors(one.name, str(box)):
            ref = self._butler.get_dataset(UUID(one.dataset_id))
            image = self._butler.get(ref.makeComponentRef("image"), parameters={"bbox": bbox}) if ref else None
        if image is None:
            raise DatasetError(f"{self.where}: the dataset {one.dataset_id} no longer exists; make the plan again")
        return np.asarray(image.array, np.float32)

    def samples(self) -> list[LocatedFile]:
        """Return a few arbitrary coadds; an empty list if the collections have none."""

        def run_query(butler: Butler) -> list[LocatedFile]:
            with butler.query() as query:
                found = query.datasets(self.dataset_type, self.collections).where(skymap=self.skymap)
                refs = list(found.limit(_SAMPLES))
            return locate_files(butler, refs, self.where)

        if self._samples is None:
            self._samples = self._ask("a first coadd", run_query)
        return self._samples

    def skymap_of(self, tracts: Sequence[int] | None = None) -> SkyMap:
        """Return the skymap with the given tracts, or with all tracts that have coadds and their neighbours.

        Tracts without a record in the repository are left out.

        Raises
        ------
        SkyMapError
            If the records do not determine the geometry of the tracts.
        """
        records = self._records_of(tracts)
        if self.rings is not None:
            return SkyMap(self.skymap, {r.id: known_tract(r, self.rings) for r in records}, self.rings)
        held = set(self.tracts()) if tracts is None else {r.id for r in records}
        patches = self._last_patches(sorted(held))
        scale, unreadable = self._scale()
        try:
            known = {r.id: tract_from_records(r, patches.get(r.id), scale) for r in records if r.id in held}
        except SkyMapError as error:
            if unreadable is None:
                raise
            raise unreadable from error
        if tracts is not None:
            return SkyMap(self.skymap, known)
        # A position can belong to a tract without coadds that overlaps a tract with coadds.
        middles = np.array([tract_centre(r) for r in records]).reshape(-1, 3)
        is_held = np.array([r.id in held for r in records], bool)
        reach = 2 * max((t.radius for t in known.values()), default=0.0)  # radians
        near = (middles @ middles[is_held].T >= np.cos(reach)).any(axis=1) & ~is_held
        neighbours = {records[i].id: outline_tract(records[i], scale) for i in np.flatnonzero(near).tolist()}
        return SkyMap(self.skymap, known, neighbours=neighbours)

    def locate(self, patches: Iterable[tuple[int, int]], bands: Sequence[str]) -> list[LocatedFile]:
        """Return every coadd of these ``(tract, patch)`` pairs in these bands, with one query.

        The repository has no coadd for a combination that is not in the result.
        """
        pairs = sorted({(int(t), int(p)) for t, p in patches})
        if not pairs:
            return []
        tract, patch = zip(*pairs, strict=True)
        table = Table({"tract": tract, "patch": patch, "skymap": np.full(len(pairs), self.skymap)})

        def run_query(butler: Butler) -> list[LocatedFile]:
            with butler.query() as query:
                found = query.join_data_coordinate_table(table).datasets(self.dataset_type, self.collections)
                refs = list(found.where("band IN (:bands)", bind={"bands": list(bands)}))
            return locate_files(butler, refs, self.where)

        return self._ask("coadds", run_query)

    def _ask[T](self, what: str, run_query: Callable[[Butler], T]) -> T:
        """Return the result of a query, with retries; ``what`` names the query in messages."""

        url = server_of(self._butler)

        def once() -> T:
            if url and self._repo is not None and self._token != butler_token(url):
                self._open(self._repo)  # a Butler keeps the token that it was opened with
            with translate_butler_errors(f"{self.name!r}: the query for {what} failed"):
                return run_query(self._butler)

        return self._patience.call(once, f"{self.name}, {what}", origin_of(url) if url else "")

    def _records_of(self, tracts: Sequence[int] | None) -> list[Any]:
        """Return the records of the given tracts, or of all tracts; a tract without a record is left out."""
        if tracts is not None and not tracts:
            return []

        def run_query(butler: Butler) -> list[Any]:
            with butler.query() as query:
                if tracts is None:
                    return list(query.dimension_records("tract").where(skymap=self.skymap))
                table = Table({"tract": [int(t) for t in tracts], "skymap": np.full(len(tracts), self.skymap)})
                return list(query.join_data_coordinate_table(table).dimension_records("tract"))

        key = "tract", None if tracts is None else tuple(sorted(int(t) for t in tracts))
        if key not in self._records:
            self._records[key] = self._ask("tract records", run_query)
        return self._records[key]

    def _scale(self) -> tuple[YX[float] | None, ReadError | None]:
        """Return the pixel scale ``(y, x)``, arcseconds, of the first readable coadd that fits its tract, and an error if not.

        Both can be None: there is no coadd, or none fits its tract.
        """
        unreadable: ReadError | None = None
        if self._pixel_scale is None:
            samples = self.samples()
            for one in samples:
                (record,) = self._records_of([one.tract])
                try:
                    with open_coadd(
                        one.uri, size=one.size, dataset_id=one.dataset_id, others=[other.uri for other in samples]
                    ) as coadd:
                        projection = coadd.projection
                    scale = (projection if isinstance(projection, TanProjection) else projection.tan).pixel_scale
                    outline_tract(record, scale)
                except SkyMapError:
                    continue
                except ReadError as error:  # one damaged file; the reader reports it later
                    unreadable = error
                    continue
                self._pixel_scale = scale
                break
        return self._pixel_scale, unreadable

    def _last_patches(self, tracts: Sequence[int]) -> dict[int, Any]:
        """Return the patch record with the highest row and column of each tract; a subset repository lacks some patches."""
        if not tracts:
            return {}
        table = Table({"tract": list(tracts), "skymap": np.full(len(tracts), self.skymap)})

        def run_query(butler: Butler) -> list[Any]:
            with butler.query() as query:
                return list(query.join_data_coordinate_table(table).dimension_records("patch"))

        key = "patch", tuple(sorted(int(t) for t in tracts))
        if key not in self._records:
            self._records[key] = self._ask("patch records", run_query)
        records = self._records[key]
        return {r.tract: r for r in sorted(records, key=lambda r: (r.cell_y + r.cell_x, r.id))}

    def _check_collections(self) -> None:
        def run_query(butler: Butler) -> tuple[str, list[str]]:
            """Return the first unknown collection and the names of all collections."""
            for name in self.collections:
                try:
                    butler.collections.query(name)
                except MissingCollectionError:
                    return name, sorted(butler.collections.query("*"))
            return "", []

        name, known = self._ask("collections", run_query)
        if name:
            raise CollectionError(f"no collection {name!r} in {self.name!r}{suggest(name, known)}")

    def _check_dataset_type(self) -> None:
        wanted = self.dataset_type

        def run_query(butler: Butler) -> tuple[set[str] | None, list[str]]:
            """Return the dimensions of the dataset type or, if it does not exist, None and all dataset types."""
            try:
                return set(butler.get_dataset_type(wanted).dimensions.required), []
            except MissingDatasetTypeError:
                return None, sorted(t.name for t in butler.registry.queryDatasetTypes())

        dimensions, known = self._ask("dataset types", run_query)
        if dimensions is None:
            raise DatasetError(f"no dataset type {wanted!r} in {self.name!r}{suggest(wanted, known)}")
        if dimensions != _DIMENSIONS:
            raise DatasetError(
                f"dataset type {wanted!r} has the dimensions {', '.join(sorted(dimensions)) or 'none'}; give a dataset type "
                "with tract, patch and band, such as 'deep_coadd'"
            )

    def _choose_skymap(self, wanted: str | None) -> str:
        def run_query(butler: Butler) -> list[str]:
            with butler.query() as query:
                known = sorted(r.name for r in query.dimension_records("skymap"))
                if wanted is None and len(known) > 1:
                    joined = query.join_dataset_search(self.dataset_type, self.collections)
                    known = sorted(str(d["skymap"]) for d in joined.data_ids(["skymap"]))
            return known

        known = self._ask("skymaps", run_query)
        if wanted is None and len(known) == 1:
            return known[0]
        if wanted is None:
            found = f"several skymaps ({', '.join(known)}); choose one with skymap=" if known else "no skymap"
            raise SkyMapError(f"{self.where}: the repository has {found}")
        if wanted not in known:
            raise SkyMapError(f"no skymap {wanted!r} in {self.name!r}{suggest(wanted, known)}")
        return wanted
