"""Repositories to measure on, and plans of what is read from them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...catalog.targets import Catalog
from ...errors import ConfigurationError
from ...fits.coadd import open_coadd
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...read.options import ReaderOptions
from ...sky.geometry import Box
from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate
from .figure import Figure
from .settings import MASK_PLANES, Scene, Settings

__all__ = ["Field", "Place", "ensure_repository", "field_of", "own_field", "whole_boxes"]

_CHUNK = 1 << 24

FLUX_UNIT: Literal["native"] = "native"
"""What other ways read, too: the values of the files."""


@dataclass(frozen=True)
class Place:
    """Where cutouts are read from; the names of `~lsstcutouts.plan.planner.build_plan`."""

    repo: str
    collections: str | tuple[str, ...]
    dataset_type: str
    bands: str | tuple[str, ...]
    skymap: str | None = None

    def names(self) -> dict[str, Any]:
        """Return all but the repository, as arguments."""
        return {
            "collections": self.collections,
            "dataset_type": self.dataset_type,
            "bands": self.bands,
            "skymap": self.skymap,
        }


@dataclass(frozen=True, eq=False)
class Field:
    """A scene made ready.

    Attributes
    ----------
    scene, place, plan
        What is read, from where, and how it was planned.
    rows
        Targets of the plan that are read, all of them: their boxes lie inside the file of their own patch, in every band.
    seconds
        What planning took.
    """

    scene: Scene
    place: Place
    plan: CutoutPlan
    rows: NDArray[np.int64]
    seconds: float
    repository: SimulatedRepository | None = None
    """The simulated repository, None for the user's own."""

    @property
    def simulated(self) -> SimulatedRepository:
        """The simulated repository.

        Raises
        ------
        ConfigurationError
            It is the user's own.
        """
        if self.repository is None:
            raise ConfigurationError("this is measured on a simulated repository only: leave out repo=")
        return self.repository

    @property
    def options(self) -> ReaderOptions:
        """What a batch holds."""
        return ReaderOptions(planes=self.scene.names, mask_planes=self.mask_planes, flux_unit=FLUX_UNIT)

    @property
    def mask_planes(self) -> tuple[str, ...]:
        """Mask planes that are asked for."""
        return MASK_PLANES if "mask" in self.scene.names else ()

    def box(self, row: int) -> Box:
        """Return the box of a target, tract pixels."""
        y, x = self.plan.yx0[row].tolist()
        return Box(y, y + self.plan.size.y, x, x + self.plan.size.x)

    def files(self) -> Iterator[tuple[int, int, int, str]]:
        """Yield patch (row of the plan's table), band, number and path of each file under the targets."""
        for patch in np.unique(self.plan.primary[self.rows]).tolist():
            for band, file in enumerate(self.plan.patches.files[patch].tolist()):
                yield patch, band, file, self.plan.files.uri[file]

    def touch(self) -> None:
        """Read every file of this machine once, so that it is in the page cache."""
        for _, _, _, path in self.files():
            if not Path(path).exists():
                continue
            with Path(path).open("rb") as file:
                while file.read(_CHUNK):
                    pass


def ensure_repository(settings: Settings, release: str, density: str, *, progress: bool = True) -> SimulatedRepository:
    """Return the repository of a release and density: the one that is named, or the benchmark's own.

    The benchmark's own is written on first use: 30 s and 140 MB a patch of DP2.

    Raises
    ------
    ConfigurationError
        The repository that is named is one of another release.
    """
    named = settings.dense if density == "dense" else settings.sparse
    if named is not None:
        repository = SimulatedRepository.load(named)
        if repository.release != release:
            raise ConfigurationError(f"{density}={named!r} is a {repository.release} repository; give release= for it")
        return repository
    config, name = _config(settings, release, density)
    root = Path(settings.root) / name
    if not root.exists():
        simulate(root, config, progress=progress)
    return SimulatedRepository.load(root)


def _config(settings: Settings, release: str, density: str) -> tuple[SimulationConfig, str]:
    if density == "dense":
        # Some of them lie where only a neighbouring patch would hold them whole.
        targets = settings.targets + max(100, settings.targets // 5)
        patches, name = 1, f"{release}-dense-{settings.targets}"
    else:
        patches = settings.sparse_patches
        targets = 4 * settings.targets_per_patch * patches**2
        name = f"{release}-sparse-{patches}x{patches}-{settings.targets_per_patch}"
    kind: Literal["dp1", "dp2"] = "dp1" if release == "dp1" else "dp2"
    return SimulationConfig(release=kind, cells=20, patches=patches, targets=targets, missing=None), name


def field_of(settings: Settings, scene: Scene, repository: SimulatedRepository) -> Field:
    """Plan a scene and choose its targets.

    Raises
    ------
    ConfigurationError
        No target's box lies inside one file of every band.
    """
    catalog = Catalog.from_any(repository.truth)
    place = Place(str(repository.root), repository.collections, repository.dataset_type, repository.bands)
    plan = build_plan(catalog, place.repo, size=scene.size, **place.names())
    rows = whole_boxes(plan)
    if scene.density == "dense":
        patches, counts = np.unique(plan.primary[rows], return_counts=True)
        rows = rows[plan.primary[rows] == patches[np.argmax(counts)]] if len(rows) else rows
        rows = rows[: settings.targets]
    else:
        rows = rows[_rank_in_patch(plan.primary[rows]) < settings.targets_per_patch]
    if not len(rows):
        raise ConfigurationError(f"{repository.root}: no box of {scene.size} px lies inside one file of every band")
    return _field(scene, place, catalog, plan.row[rows], repository)


def own_field(settings: Settings, scene: Scene) -> tuple[Field, Figure]:
    """Plan the user's own catalog and choose its targets; return what planning took, too.

    At most ``settings.targets``, patch after patch, those with most targets first: as close together as they are.

    Raises
    ------
    ConfigurationError
        No target's box lies inside one file of every band.
    """
    place = Place(
        str(settings.repo),
        settings.collections or (),
        settings.dataset_type,
        settings.bands or "ugrizy",
        settings.skymap,
    )
    catalog = Catalog.from_any(settings.catalog)
    start = time.perf_counter()
    plan = build_plan(catalog, place.repo, size=scene.size, **place.names())
    seconds = time.perf_counter() - start
    rows = whole_boxes(plan)
    if not len(rows):
        raise ConfigurationError(
            f"{settings.catalog}: no box of {scene.size} px lies inside one file of every band of {''.join(plan.bands)}; "
            "give bands= that the repository holds there, or a smaller size="
        )
    counts = np.bincount(plan.primary[rows])
    rows = rows[np.lexsort((rows, plan.primary[rows], -counts[plan.primary[rows]]))][: settings.targets]
    field = _field(scene, place, catalog, plan.row[rows], None)
    detail = f"{len(plan)} of {len(catalog)} targets covered; {len(field.rows)} of them are measured"
    return field, Figure(f"planning {len(catalog):,} targets", seconds, "s", detail)


def _field(
    scene: Scene, place: Place, catalog: Catalog, rows: NDArray[np.int64], repository: SimulatedRepository | None
) -> Field:
    """Plan rows of a catalog and nothing else: what further targets would need is not decoded."""
    start = time.perf_counter()
    plan = build_plan(catalog[np.sort(rows)], place.repo, size=scene.size, **place.names())
    return Field(scene, place, plan, np.arange(len(plan)), time.perf_counter() - start, repository)


def whole_boxes(plan: CutoutPlan) -> NDArray[np.int64]:
    """Return the targets whose box lies inside their own patch's file, in every band.

    A plain `butler.get` raises for any other.
    """
    inside = np.zeros(len(plan), bool)
    size = np.asarray(plan.size)
    for patch in np.unique(plan.primary).tolist():
        files = plan.patches.files[patch]
        if (files < 0).any():
            continue
        with open_coadd(plan.files.uri[files[0]]) as coadd:
            bbox = coadd.bbox
        mine = np.flatnonzero(plan.primary == patch)
        low, high = plan.yx0[mine], plan.yx0[mine] + size
        inside[mine] = ((low >= bbox.start) & (high <= (bbox.y1, bbox.x1))).all(axis=1)
    return np.flatnonzero(inside)


def _rank_in_patch(patch: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the place of each target among those of its patch."""
    rank = np.zeros(len(patch), np.int64)
    for one in np.unique(patch):
        mine = patch == one
        rank[mine] = np.arange(mine.sum())
    return rank
