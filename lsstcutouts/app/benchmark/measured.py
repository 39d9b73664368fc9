"""What is measured: settings, and the targets chosen from the user's plan or from the demo's."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...catalog.targets import Catalog
from ...errors import ConfigurationError
from ...fits.coadd import open_coadd
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...read.reader import default_threads
from ...sky.geometry import Box
from ...testing.config import SimulationConfig
from ...testing.simulation import SimulatedRepository, simulate

__all__ = ["MASK_PLANES", "BenchmarkSettings", "MeasuredTargets", "sample_of"]

MASK_PLANES = ("NO_DATA", "SATURATED", "DETECTED")
"""Mask planes that are read where ``planes`` has the mask."""

_PLANES = ("image", "variance", "mask")
_CACHES = ("empty", "full")
_LEAST = {"size": 1, "targets": 1, "batch_size": 1, "repeats": 1, "butler_targets": 1, "threads": 1, "workers": 0}


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of a benchmark; ``configs/benchmark.yaml`` explains each."""

    repo: str | None = None
    collections: str | tuple[str, ...] | None = None
    catalog: str | None = None
    plan: str | None = None
    bands: str | tuple[str, ...] | None = None
    dataset_type: str = "deep_coadd"
    skymap: str | None = None
    demo: str = "demo/repo"
    output: str = "outputs/benchmark"
    size: int = 64
    planes: tuple[str, ...] = ("image",)
    batch_size: int = 128
    cache: tuple[str, ...] = _CACHES
    threads: tuple[int, ...] | None = None
    workers: tuple[int, ...] = (0,)
    device: str = "cpu"
    cache_bytes: float | str = "auto"
    targets: int = 1000
    butler_targets: int = 30
    repeats: int = 5
    seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if value == () or any(not isinstance(v, int) or isinstance(v, bool) or v < least for v in values):
                raise ConfigurationError(f"{name}={value!r} must be whole numbers >= {least}")
        for name, choices in (("planes", _PLANES), ("cache", _CACHES)):
            given = getattr(self, name)
            if not given or any(value not in choices for value in given):
                raise ConfigurationError(f"{name}={list(given)!r} must be out of {', '.join(choices)}")
        own = {name: getattr(self, name) for name in ("repo", "collections", "catalog")}
        lacking = [f"{name}=" for name, value in own.items() if value is None]
        if self.plan is not None and len(lacking) < len(own):
            raise ConfigurationError(
                "plan= already has the repository and the catalog; remove repo=, collections=, catalog="
            )
        if 0 < len(lacking) < len(own):
            raise ConfigurationError(
                f"repo=, collections= and catalog= belong together: add {' and '.join(lacking)}; without "
                "any of them the demo's simulated repository is measured"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "BenchmarkSettings":
        """Return settings from plain values; a list may also be given as one value."""
        lists = {f.name for f in fields(cls) if isinstance(f.default, tuple)} | {"threads"}
        given = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name, value in given.items():
            if isinstance(value, list):
                given[name] = tuple(value)
            elif name in lists and isinstance(value, int | str):
                given[name] = (value,)
        return cls(**given)

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Numbers of threads to compare: by default 1 and the default of the loader."""
        return tuple(sorted(set(self.threads or (1, default_threads()))))


@dataclass(frozen=True, eq=False)
class MeasuredTargets:
    """The targets that are measured."""

    name: str
    """Where they come from, in words."""
    plan: CutoutPlan
    rows: NDArray[np.int64]
    """``(N,)`` rows of the plan that are read, all targets of some patches; each box lies in one file of every band."""
    planes: tuple[str, ...]
    plan_seconds: float | None
    """What planning took; None for a saved plan."""

    @property
    def patches(self) -> int:
        """Patches of the sample."""
        return len(np.unique(self.plan.primary[self.rows]))

    @property
    def all_patches(self) -> int:
        """Patches of the whole plan that have files."""
        used = np.unique(self.plan.primary)
        return int((self.plan.patches.files[used] >= 0).any(axis=1).sum())

    def some_rows(self, most: int) -> NDArray[np.int64]:
        """Return at most so many of `rows`, evenly spread."""
        return self.rows[np.unique(np.linspace(0, len(self.rows) - 1, min(most, len(self.rows))).astype(np.int64))]

    @property
    def mask_planes(self) -> tuple[str, ...]:
        """Mask planes that are asked for."""
        return MASK_PLANES if "mask" in self.planes else ()

    def __str__(self) -> str:
        y, x = self.plan.size
        return (
            f"{self.name}: {len(self.rows):,} of {len(self.plan):,} targets, {self.patches} of {self.all_patches} patches, "
            f"{y} x {x} px, bands {' '.join(self.plan.bands)}, {' + '.join(self.planes)}"
        )

    def values(self) -> dict[str, Any]:
        """Return plain values for the result's file."""
        plan = self.plan
        of_plan = {"plan_targets": len(plan), "plan_patches": self.all_patches, "plan_seconds": self.plan_seconds}
        read = {"size": list(plan.size), "bands": list(plan.bands), "planes": list(self.planes)}
        return {"text": str(self), "targets": len(self.rows), "patches": self.patches, **of_plan, **read}

    def box(self, row: int) -> Box:
        """Return the box of a target, tract pixels."""
        y, x = self.plan.yx0[row].tolist()
        return Box(y, y + self.plan.size.y, x, x + self.plan.size.x)

    def files(self) -> Iterator[tuple[int, int, int, str]]:
        """Yield patch (row of the plan's table), band, number and URI of each file under the sample."""
        for patch in np.unique(self.plan.primary[self.rows]).tolist():
            for band, file in enumerate(self.plan.patches.files[patch].tolist()):
                yield patch, band, file, self.plan.files.uri[file]

    def touch(self) -> None:
        """Read every local file once, so that the page cache holds it."""
        for _, _, _, path in self.files():
            if Path(path).exists():
                Path(path).read_bytes()


def sample_of(settings: BenchmarkSettings, *, progress: bool = False) -> MeasuredTargets:
    """Plan, and choose the targets to measure.

    Patches are chosen at random in proportion to their number of targets, and all targets of a patch are read, so that
    tiles are shared by as many targets as in a training.
    """
    seconds = None
    if settings.plan is not None:
        name, plan = settings.plan, CutoutPlan.load(settings.plan)
        if plan.grid is not None:
            raise ConfigurationError(
                f"{name} is a plan on your own pixel grid, where other ways have no equal; make one without read.grid to measure"
            )
    else:
        name, repo, catalog, arguments = _source(settings, progress)
        start = time.perf_counter()
        plan = build_plan(repo, catalog, size=settings.size, **arguments)
        seconds = time.perf_counter() - start
    rows = _whole_patches(plan, settings.targets, settings.seed)
    if not len(rows):
        raise ConfigurationError(
            f"{name}: no box of {plan.size.y} x {plan.size.x} px lies inside one file of every band of "
            f"{''.join(plan.bands)}; give bands= that the repository holds there, or a smaller size="
        )
    return MeasuredTargets(name, plan, rows, settings.planes, seconds)


def _source(settings: BenchmarkSettings, progress: bool) -> tuple[str, str, Catalog, dict[str, Any]]:
    """Return a name, and repository, catalog and other arguments of `build_plan`; writes the demo where it does not exist."""
    if settings.repo is not None:
        arguments: dict[str, Any] = {"collections": settings.collections, "dataset_type": settings.dataset_type}
        arguments |= {"bands": settings.bands or "ugrizy", "read": ReadOptions(skymap=settings.skymap)}
        return settings.repo, settings.repo, Catalog.from_any(settings.catalog), arguments
    root = Path(settings.demo)
    if not root.exists():
        simulate(root, SimulationConfig(targets=2400), progress=progress)
    demo = SimulatedRepository.load(root)
    arguments = {
        "collections": demo.collections,
        "dataset_type": demo.dataset_type,
        "bands": settings.bands or demo.bands,
    }
    return f"simulated repository {root}", str(root), Catalog.from_any(demo.truth), arguments


def _whole_patches(plan: CutoutPlan, most: int, seed: int) -> NDArray[np.int64]:
    """Return the targets of random patches whose boxes lie inside their own patch's file, in every band."""
    size, chosen, count = np.asarray(plan.size), list[NDArray[np.int64]](), 0
    order = plan.primary[np.random.default_rng(seed).permutation(len(plan))].tolist()
    for patch in dict.fromkeys(order):
        files = plan.patches.files[patch]
        if (files < 0).any():
            continue
        with open_coadd(plan.files.uri[files[0]]) as coadd:
            bbox = coadd.bbox
        mine = np.flatnonzero(plan.primary == patch)
        low, high = plan.yx0[mine], plan.yx0[mine] + size
        mine = mine[((low >= bbox.start) & (high <= (bbox.y1, bbox.x1))).all(axis=1)]
        chosen.append(mine)
        count += len(mine)
        if count >= most:
            break
    return np.sort(np.concatenate(chosen)[:most]) if chosen else np.empty(0, np.int64)
