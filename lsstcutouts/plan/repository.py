"""A Butler repository as a plan sees it."""

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
from ..sky.skymap import KNOWN_RINGS, RingsGeometry, SkyMap
from ..source.retry import Retry
from .butler_errors import open_butler, suggest, translate_butler_errors, translate_file_errors
from .locations import LocatedFile, locate_files
from .tracts import known_tract, outline_tract, tract_centre, tract_from_records

__all__ = ["Repository", "as_names"]

_DIMENSIONS = {"band", "skymap", "tract", "patch"}
_SAMPLES = 20
_RETRY = Retry()
"""A `RemoteButler` waits on its own, up to 120 s for a byte or for a server that says when to come back; a SQLite
registry up to 300 s for a lock. Either uses up the minute of this, so that nothing waits much longer than that."""


def as_names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return a name, or several, as a tuple of names."""
    return (value,) if isinstance(value, str) else tuple(value)


class Repository:
    """A Butler repository, opened for reading coadds of one dataset type.

    Parameters
    ----------
    repo
        Path, label or URL of the repository, or an open Butler (which stays open).
    collections
        Collection names, searched in order.
    dataset_type
        A dataset type with the dimensions tract, patch and band.
    skymap
        Name of the skymap; by default the one that the coadds have.
    retry
        How often and how long it is asked again when it gives no answer.

    Raises
    ------
    RepositoryNotFoundError, AuthenticationError, RepositoryUnavailableError, RepositoryError
        If there is no repository, or it cannot be asked.
    CollectionError, DatasetError, SkyMapError
        If it does not hold what is named; the message lists what it does hold.
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
            raise CollectionError("no collection given; name one, such as collections='dp2'")
        self.dataset_type = dataset_type
        self._retry = retry
        self._pixel_scale: YX[float] | None = None
        self._owned = not isinstance(repo, Butler)
        if isinstance(repo, Butler):
            self.name, self._butler = "the Butler that was given", repo
        else:
            self.name = without_query(str(repo))
            self._butler = retry.call(lambda: open_butler(repo), self.name)
        try:
            self._check_collections()
            self._check_dataset_type()
            self.skymap = self._choose_skymap(skymap)
            self.rings = self._known_rings()
        except LsstCutoutsError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the Butler, if it was opened here."""
        if self._owned:
            self._butler.close()

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
        """Raise `ConfigurationError` for a band that neither a coadd nor a filter of the repository has.

        A subset that ``Butler.transfer_from`` made has no records of filters; a repository may have filters in whose
        bands there is no coadd yet.
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
            # Where there is no coadd at all, that is what is wrong, not the band.
            if band not in named.union(known) and known:
                raise ConfigurationError(f"no band {band!r} in {self.where}{suggest(band, known)}")

    @property
    def storage_class(self) -> str:
        """Name of the coadds' storage class: ``CellCoadd`` for `lsst.images` files, ``ExposureF`` for afw's."""
        return str(
            self._ask("dataset types", lambda butler: butler.get_dataset_type(self.dataset_type).storageClass_name)
        )

    def count(self, **data_id: int | str) -> int:
        """Return the number of coadds, of those with a given ``band``, ``tract`` or ``patch`` if asked."""
        if unknown := sorted(data_id.keys() - _DIMENSIONS):
            raise ConfigurationError(
                f"coadds have no {unknown[0]!r}{suggest(unknown[0], sorted(_DIMENSIONS))} (asked of {self.where})"
            )

        def run_query(butler: Butler) -> int:
            with butler.query() as query:
                found = query.datasets(self.dataset_type, self.collections).where({"skymap": self.skymap, **data_id})
                return int(found.count())

        return self._ask(f"the number of coadds with {data_id}" if data_id else "the number of coadds", run_query)

    def tracts(self) -> list[int]:
        """Return the tracts that have coadds, ascending."""

        def run_query(butler: Butler) -> list[int]:
            with butler.query() as query:
                joined = query.join_dataset_search(self.dataset_type, self.collections).where(skymap=self.skymap)
                return sorted(int(data_id["tract"]) for data_id in joined.data_ids(["tract"]))

        return self._ask("tracts", run_query)

    def find(self, tract: int, patch: int, band: str) -> LocatedFile:
        """Return one coadd, or say which part of its name is wrong: a Butler tells only that there is none.

        Raises
        ------
        ConfigurationError
            Neither a coadd nor a filter of the repository has the band.
        SkyMapError
            The skymap has no such tract, or the tract no such patch.
        DatasetError
            There is no coadd of that patch in that band.
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
            raise SkyMapError(f"tract {tract} has the patches 0 to {known.grid.y * known.grid.x - 1}, none is {patch}")
        bands = sorted(one.band for one in self.locate([(tract, patch)], self.bands()))
        there = f"; there is {', '.join(bands)}" if bands else "; no band has one"
        raise DatasetError(f"no {self.where} for tract {tract}, patch {patch}, band {band}{there}")

    def read_image(self, one: LocatedFile, box: Box) -> NDArray[np.float32]:
        """Return image pixels as the Butler's own formatter reads them.

        Slow, and independent of this package's readers: for comparing with them. Only for the storage class
        ``CellCoadd``; others need the LSST stack.

        Raises
        ------
        ReadError
            If the Butler cannot read them.
        DependencyError
            If it needs the LSST stack for that.
        """
        from lsst import images

        bbox = images.Box.factory[box.y0 : box.y1, box.x0 : box.x1]
        with translate_file_errors(one.name, str(box)):
            ref = self._butler.get_dataset(UUID(one.dataset_id))
            image = self._butler.get(ref.makeComponentRef("image"), parameters={"bbox": bbox}) if ref else None
        if image is None:
            raise DatasetError(f"{self.where}: there is no dataset {one.dataset_id} any more")
        return np.asarray(image.array, np.float32)

    def samples(self) -> list[LocatedFile]:
        """Return a few coadds, any; an empty list where the collections hold none."""

        def run_query(butler: Butler) -> list[LocatedFile]:
            with butler.query() as query:
                found = query.datasets(self.dataset_type, self.collections).where(skymap=self.skymap)
                refs = list(found.limit(_SAMPLES))
            return locate_files(butler, refs, self.where)

        return self._ask("a first coadd", run_query)

    def skymap_of(self, tracts: Sequence[int] | None = None) -> SkyMap:
        """Return the skymap with the named tracts, or with every tract that has coadds and the tracts beside those.

        Tracts that the repository has no record of are left out.

        Raises
        ------
        SkyMapError
            If the records do not say how the skymap is divided.
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
        # The skymap may give a position to a tract without coadds, where one with coadds overlaps it.
        middles = np.array([tract_centre(r) for r in records]).reshape(-1, 3)
        is_held = np.array([r.id in held for r in records], bool)
        reach = 2 * max((t.radius for t in known.values()), default=0.0)
        beside = (middles @ middles[is_held].T >= np.cos(reach)).any(axis=1) & ~is_held
        neighbours = {records[i].id: outline_tract(records[i], scale) for i in np.flatnonzero(beside).tolist()}
        return SkyMap(self.skymap, known, neighbours=neighbours)

    def locate(self, patches: Iterable[tuple[int, int]], bands: Sequence[str]) -> list[LocatedFile]:
        """Return every coadd of these ``(tract, patch)`` pairs in these bands, in one query.

        A combination that is missing from the result is one that the repository does not hold.
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
        """Return the Butler's answer; asked again while it is unavailable."""

        def once() -> T:
            with translate_butler_errors(f"{self.name!r}, asked for {what}"):
                return run_query(self._butler)

        return self._retry.call(once, f"{self.name}, {what}")

    def _records_of(self, tracts: Sequence[int] | None) -> list[Any]:
        """Return the records of the named tracts, or of all, as far as there are any."""
        if tracts is not None and not tracts:
            return []

        def run_query(butler: Butler) -> list[Any]:
            with butler.query() as query:
                if tracts is None:
                    return list(query.dimension_records("tract").where(skymap=self.skymap))
                table = Table({"tract": [int(t) for t in tracts], "skymap": np.full(len(tracts), self.skymap)})
                return list(query.join_data_coordinate_table(table).dimension_records("tract"))

        return self._ask("tract records", run_query)

    def _scale(self) -> tuple[YX[float] | None, ReadError | None]:
        """Return the arcseconds a pixel of the first coadd that can be read and fits its tract; else what is wrong with one."""
        unreadable: ReadError | None = None
        if self._pixel_scale is None:
            samples = self.samples()
            for one in samples:
                (record,) = self._records_of([one.tract])
                try:
                    with open_coadd(one.uri, size=one.size, others=[other.uri for other in samples]) as coadd:
                        projection = coadd.projection
                    scale = (projection if isinstance(projection, TanProjection) else projection.tan).pixel_scale
                    outline_tract(record, scale)
                except SkyMapError:
                    continue
                except ReadError as error:  # one damaged file; the reader finds it
                    unreadable = error
                    continue
                self._pixel_scale = scale
                break
        return self._pixel_scale, unreadable

    def _last_patches(self, tracts: Sequence[int]) -> dict[int, Any]:
        """Return the patch record with the highest place in each tract; a subset of a repository lacks some."""
        if not tracts:
            return {}
        table = Table({"tract": list(tracts), "skymap": np.full(len(tracts), self.skymap)})

        def run_query(butler: Butler) -> list[Any]:
            with butler.query() as query:
                return list(query.join_data_coordinate_table(table).dimension_records("patch"))

        records = self._ask("patch records", run_query)
        return {r.tract: r for r in sorted(records, key=lambda r: (r.cell_y + r.cell_x, r.id))}

    def _check_collections(self) -> None:
        def run_query(butler: Butler) -> tuple[str, list[str]]:
            """Return the first name that is not known, and then every one that is."""
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
            """Return the dimensions of the dataset type; where there is none, the names that there are."""
            try:
                return set(butler.get_dataset_type(wanted).dimensions.required), []
            except MissingDatasetTypeError:
                return None, sorted(t.name for t in butler.registry.queryDatasetTypes())

        dimensions, known = self._ask("dataset types", run_query)
        if dimensions is None:
            raise DatasetError(f"no dataset type {wanted!r} in {self.name!r}{suggest(wanted, known)}")
        if dimensions != _DIMENSIONS:
            raise DatasetError(
                f"dataset type {wanted!r} has the dimensions {', '.join(sorted(dimensions)) or 'none'}; cutouts need "
                "images with tract, patch and band, such as 'deep_coadd'"
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
            have = f"several skymaps ({', '.join(known)}); name one with skymap=" if known else "no skymap"
            raise SkyMapError(f"{self.where}: there is {have}")
        if wanted not in known:
            raise SkyMapError(f"no skymap {wanted!r} in {self.name!r}{suggest(wanted, known)}")
        return wanted

    def _known_rings(self) -> RingsGeometry | None:
        """Return the layout of the skymap, where its record's hash is that of a known ring skymap."""
        records = self._ask(
            "the skymap record", lambda butler: butler.query_dimension_records("skymap", skymap=self.skymap)
        )
        return KNOWN_RINGS.get(records[0].hash.hex())
