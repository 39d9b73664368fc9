"""Everything that is asked of a Butler: dimension records and locations, in bulk and in one thread.

One Butler shared by several threads answers "no such dataset" for datasets that exist, and a remote one does
not pickle: so a `Repository` is opened where a plan is made, asked, and closed; readers get plain values.
"""

import difflib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
import yaml
from astropy.table import Table
from lsst.daf.butler import (
    Butler,
    DatasetNotFoundError,
    DatasetRef,
    InvalidQueryError,
    MissingCollectionError,
    MissingDatasetTypeError,
)
from lsst.daf.butler.registry import NoDefaultCollectionError
from lsst.resources import ResourcePath
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from .errors import (
    CollectionError,
    ConfigurationError,
    DatasetError,
    LsstCutoutsError,
    ReadError,
    RepositoryError,
    RepositoryNotFoundError,
    SkyMapError,
)
from .geom import YX, Box
from .skymap import KNOWN_RINGS, RingsGeometry, SkyMap, Tract

__all__ = ["LocatedFile", "Repository", "as_names"]

_log = logging.getLogger(__name__)

_DIMENSIONS = {"band", "skymap", "tract", "patch"}


def as_names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return a name, or several, as a tuple of names."""
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True, slots=True)
class LocatedFile:
    """One coadd that the repository holds.

    Attributes
    ----------
    tract, patch, band
        Its data ID.
    uri
        A path for local files, else a URI.
    size
        Bytes; -1 where only the server could tell.
    dataset_id
        UUID of the dataset.
    """

    tract: int
    patch: int
    band: str
    uri: str
    size: int
    dataset_id: str


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

    Raises
    ------
    RepositoryNotFoundError, RepositoryError
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
    ) -> None:
        self.collections = as_names(collections)
        if not self.collections:
            raise CollectionError("no collection given; name one, such as collections='dp2'")
        self.dataset_type = dataset_type
        self._owned = not isinstance(repo, Butler)
        self._butler = repo if isinstance(repo, Butler) else _open(repo)
        self.name = str(repo) if self._owned else "the Butler that was given"
        try:
            self._check_names()
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
        """Return every band that the repository's filters have, sorted."""
        with self._translated("physical_filter records"):
            records = self._butler.query_dimension_records("physical_filter", explain=False, limit=None)
        return tuple(sorted({record.band for record in records}))

    def check_bands(self, bands: Sequence[str]) -> None:
        """Raise `ConfigurationError` for a band that no filter of the repository has."""
        known = self.bands()
        for band in bands:
            if band not in known:
                raise ConfigurationError(f"no band {band!r} in {self.name!r}{_instead(band, known)}")

    @property
    def storage_class(self) -> str:
        """Name of the coadds' storage class: ``CellCoadd`` for `lsst.images` files, ``ExposureF`` for afw's."""
        with self._translated("dataset types"):
            return str(self._butler.get_dataset_type(self.dataset_type).storageClass_name)

    def count(self, **data_id: int | str) -> int:
        """Return the number of coadds, of those with a given ``band`` or ``tract`` if asked."""
        with self._translated("the number of coadds"), self._butler.query() as query:
            found = query.datasets(self.dataset_type, self.collections).where({"skymap": self.skymap, **data_id})
            return int(found.count())

    def tracts(self) -> list[int]:
        """Return the tracts that have coadds, ascending."""
        with self._translated("tracts"), self._butler.query() as query:
            joined = query.join_dataset_search(self.dataset_type, self.collections).where(skymap=self.skymap)
            return sorted(int(data_id["tract"]) for data_id in joined.data_ids(["tract"]))

    def read_image(self, one: LocatedFile, box: Box) -> NDArray[np.float32]:
        """Return image pixels as the Butler's own formatter reads them.

        Slow, and independent of this package's readers: for comparing with them. Only for the storage class
        ``CellCoadd``; others need the LSST stack.

        Raises
        ------
        ReadError
            If the Butler cannot read them.
        """
        from lsst import images

        bbox = images.Box.factory[box.y0 : box.y1, box.x0 : box.x1]
        try:
            ref = self._butler.get_dataset(UUID(one.dataset_id))
            image = self._butler.get(ref.makeComponentRef("image"), parameters={"bbox": bbox}) if ref else None
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            raise ReadError(f"{one.uri}: the Butler cannot read {box}: {error}") from error
        if image is None:
            raise DatasetError(f"{self.where}: there is no dataset {one.dataset_id} any more")
        return np.asarray(image.array, np.float32)

    def samples(self) -> list[LocatedFile]:
        """Return a few coadds, any; an empty list where the collections hold none."""
        with self._translated("a first coadd"), self._butler.query() as query:
            found = query.datasets(self.dataset_type, self.collections).where(skymap=self.skymap)
            return self._locate(list(found.limit(20)))

    def skymap_of(self, tracts: Sequence[int] | None = None) -> SkyMap:
        """Return the skymap with the named tracts, or with every tract that has coadds.

        Tracts that the repository has no record of are left out.
        """
        rings = self.rings
        with self._translated("tract records"), self._butler.query() as query:
            if tracts is None:
                found = query.join_dataset_search(self.dataset_type, self.collections).dimension_records("tract")
                records = list(found.where(skymap=self.skymap))
            elif tracts:
                table = Table({"tract": [int(t) for t in tracts], "skymap": np.full(len(tracts), self.skymap)})
                records = list(query.join_data_coordinate_table(table).dimension_records("tract"))
            else:
                records = []
        patches = {} if rings else self._last_patches([r.id for r in records])
        return SkyMap(self.skymap, {r.id: _tract(r, patches.get(r.id), rings) for r in records}, rings)

    def _last_patches(self, tracts: Sequence[int]) -> dict[int, Any]:
        """Return the patch record with the highest place in each tract; a subset of a repository lacks some."""
        with self._translated("patch records"), self._butler.query() as query:
            table = Table({"tract": list(tracts), "skymap": np.full(len(tracts), self.skymap)})
            joined = query.join_data_coordinate_table(table) if tracts else None
            records = list(joined.dimension_records("patch")) if joined else []
        return {r.tract: r for r in sorted(records, key=lambda r: (r.cell_y + r.cell_x, r.id))}

    def locate(self, patches: Iterable[tuple[int, int]], bands: Sequence[str]) -> list[LocatedFile]:
        """Return every coadd of these ``(tract, patch)`` pairs in these bands, in one query.

        A combination that is missing from the result is one that the repository does not hold.
        """
        pairs = sorted({(int(t), int(p)) for t, p in patches})
        if not pairs:
            return []
        tract, patch = zip(*pairs, strict=True)
        table = Table({"tract": tract, "patch": patch, "skymap": np.full(len(pairs), self.skymap)})
        with self._translated("coadds"), self._butler.query() as query:
            found = query.join_data_coordinate_table(table).datasets(self.dataset_type, self.collections)
            return self._locate(list(found.where("band IN (:bands)", bind={"bands": list(bands)})))

    def _locate(self, refs: Sequence[DatasetRef]) -> list[LocatedFile]:
        uris = self._uris(refs)
        if len(uris) < len(refs):
            _log.warning(
                "%d of %d %s are registered but have no file; they count as absent",
                len(refs) - len(uris),
                len(refs),
                self.where,
            )
        return [
            LocatedFile(
                tract=int(ref.dataId["tract"]),
                patch=int(ref.dataId["patch"]),
                band=str(ref.dataId["band"]),
                uri=uri.ospath if uri.isLocal else str(uri),
                size=_local_size(uri),
                dataset_id=str(ref.id),
            )
            for ref, uri in uris
        ]

    def _uris(self, refs: Sequence[DatasetRef]) -> list[tuple[DatasetRef, ResourcePath]]:
        try:
            found = self._butler.get_many_uris(refs, allow_missing=True)
        except AttributeError:  # a RemoteButler has no datastore of its own and asks the server one by one
            return [(ref, self._butler.getURI(ref)) for ref in refs]
        return [(ref, uri) for ref in refs if ref in found and (uri := found[ref].primaryURI) is not None]

    def _check_names(self) -> None:
        with self._translated("collections"):
            known = set(self._butler.collections.query("*"))
        for name in self.collections:
            if name not in known:
                raise CollectionError(f"no collection {name!r} in {self.name!r}{_instead(name, sorted(known))}")
        with self._translated("dataset types"):
            types = {t.name: t for t in self._butler.registry.queryDatasetTypes()}
        if self.dataset_type not in types:
            raise DatasetError(
                f"no dataset type {self.dataset_type!r} in {self.name!r}{_instead(self.dataset_type, sorted(types))}"
            )
        dimensions = set(types[self.dataset_type].dimensions.required)
        if dimensions != _DIMENSIONS:
            raise DatasetError(
                f"dataset type {self.dataset_type!r} has the dimensions {', '.join(sorted(dimensions))}; cutouts need "
                "images with tract, patch and band, such as 'deep_coadd'"
            )

    def _choose_skymap(self, wanted: str | None) -> str:
        with self._translated("skymaps"), self._butler.query() as query:
            known = sorted(r.name for r in query.dimension_records("skymap"))
            if wanted is None and len(known) > 1:
                joined = query.join_dataset_search(self.dataset_type, self.collections)
                known = sorted(str(d["skymap"]) for d in joined.data_ids(["skymap"]))
        if wanted is None and len(known) == 1:
            return str(known[0])
        if wanted is None:
            have = f"several skymaps ({', '.join(known)}); name one with skymap=" if known else "no skymap"
            raise SkyMapError(f"{self.where}: there is {have}")
        if wanted not in known:
            raise SkyMapError(f"no skymap {wanted!r} in {self.name!r}{_instead(wanted, known)}")
        return wanted

    def _known_rings(self) -> RingsGeometry | None:
        """Return the layout of the skymap, where its record's hash is that of a known ring skymap."""
        with self._translated("the skymap record"):
            record = self._butler.query_dimension_records("skymap", skymap=self.skymap)[0]
        return KNOWN_RINGS.get(record.hash.hex())

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn what a Butler raises into this package's errors; the cause stays chained."""
        try:
            yield
        except MissingCollectionError as error:
            raise CollectionError(f"{self.name!r}, asked for {what}: {error}") from error
        except NoDefaultCollectionError as error:
            raise CollectionError(f"{self.name!r}, asked for {what}: {error}; give collections=") from error
        except (MissingDatasetTypeError, DatasetNotFoundError) as error:
            raise DatasetError(f"{self.name!r}, asked for {what}: {error}") from error
        except (InvalidQueryError, SQLAlchemyError, RuntimeError) as error:
            raise RepositoryError(f"{self.name!r} could not answer for {what}: {error}") from error


def _open(repo: str | os.PathLike[str]) -> Butler:
    name = os.fspath(repo)
    try:
        return Butler.from_config(name, writeable=False)
    except FileNotFoundError as error:
        hint = ""
        if Path(name).is_dir():
            hint = "; the folder exists but holds no butler.yaml"
        raise RepositoryNotFoundError(
            f"no Butler repository {name!r}{hint}; give a path, a URL, or a label of DAF_BUTLER_REPOSITORY_INDEX ({error})"
        ) from error
    except ModuleNotFoundError as error:
        raise RepositoryError(f"{name!r} needs {error.name!r}: pip install 'lsstcutouts[remote]'") from error
    except (yaml.YAMLError, SQLAlchemyError, RuntimeError, OSError) as error:
        raise RepositoryError(f"the Butler repository {name!r} cannot be opened: {error}") from error


def _tract(record: Any, patch: Any, rings: RingsGeometry | None) -> Tract:
    """Return a tract from its record; its grid of patches from the known skymap, else from one patch's record."""
    corners = _vertices(record)
    if rings is None:
        if patch is None:
            raise SkyMapError(f"tract {record.id}: the repository has no record of any of its patches")
        return Tract.from_corners(record.id, corners, grid=_grid(record.id, corners, patch))
    tract = Tract.from_corners(record.id, corners, inner=rings.inner)
    centre = rings.centre(record.id)
    away = tract.projection.sky_to_pixel(*centre)
    if max(abs(away.x - tract.projection.crpix[0]), abs(away.y - tract.projection.crpix[1])) > 0.01:
        raise SkyMapError(
            f"tract {record.id}: its record's tangent point {tract.projection.crval} is not the skymap's {centre}"
        )
    return tract


def _grid(tract: int, corners: NDArray[np.float64], patch: Any) -> YX[int]:
    """Return the number of patches of a tract: a patch's middle and its place give the size of all of them.

    The largest place among the records would not do: a subset of a repository has only some of them, and the
    skymap's own record tells only the largest grid of any tract.
    """
    whole = Tract.from_corners(tract, corners, grid=YX(1, 1))
    x, y, z = _vertices(patch).mean(axis=0)
    middle = whole.projection.sky_to_pixel(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))))
    inner = YX(y=(middle.y + 0.5) / (patch.cell_y + 0.5), x=(middle.x + 0.5) / (patch.cell_x + 0.5))
    return YX(y=round(float(whole.inner.y / inner.y)), x=round(float(whole.inner.x / inner.x)))


def _vertices(record: Any) -> NDArray[np.float64]:
    return np.array([[v.x(), v.y(), v.z()] for v in record.region.getVertices()])


def _local_size(uri: ResourcePath) -> int:
    if not uri.isLocal:
        return -1
    path = Path(uri.ospath)
    # A vanished file is found when it is read, where its row can be named.
    return path.stat().st_size if path.exists() else -1


def _instead(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; there is: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}" if known else "; there is none"
