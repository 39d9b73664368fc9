"""Time and size of a plan of a large catalog, on a repository that registers one file many times.

Run: python -m benchmarks.large_plan [targets=1000000] [patches=1000] [folder=bench] [demo=demo/repo]
"""

import pickle
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from lsst.daf.butler import (  # type: ignore[attr-defined]
    Butler,
    CollectionType,
    Config,
    DatasetRef,
    DatasetType,
    FileDataset,
)
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.measured import MeasuredTargets, sample_of
from lsstcutouts.errors import PlanError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.source.writing import atomic_file
from lsstcutouts.testing.dp2 import STORAGE_CLASS, datastore_formatter
from lsstcutouts.testing.simulated_skymap import SimulatedSkyMap, skymap_of
from lsstcutouts.testing.simulation import SimulatedRepository

from .common import report, settings_of

__all__ = ["measure_planning", "planning_repository"]

_RUN, _DATASET_TYPE = "wide/run", "deep_coadd"
_INSET = 1
"""Patches left out at each edge of a tract: their targets belong to the neighbouring tracts."""


def measure_planning(
    sample: MeasuredTargets, source: SimulatedRepository, folder: Path, targets: int, patches: int
) -> dict[str, Any]:
    """Return the time and size of a plan of targets spread over many patches, from Parquet to a plan.

    Parameters
    ----------
    sample, source
        Of a simulated DP2 repository, which lends its skymap's geometry and one real file.
    folder
        Where the repository and the catalog are kept for the next time.
    targets, patches
        How many.
    """
    root = planning_repository(source, sample, folder / f"planning-{patches}", patches)
    catalog = _catalog(sample, source, folder / f"planning-{patches}-{targets}.parquet", targets, patches)
    start = time.perf_counter()
    plan = build_plan(root, catalog, collections=_RUN, bands=source.bands, size=sample.plan.size)
    seconds = time.perf_counter() - start
    _check(plan, sample.plan)
    used = len(np.unique(plan.primary))
    size = len(pickle.dumps(plan, protocol=5)) / max(1, len(plan))
    return {
        "targets": targets,
        "delivered": len(plan),
        "patches": used,
        "files": len(plan.files),
        "seconds": seconds,
        "bytes/target": size,
    }


def planning_repository(source: SimulatedRepository, sample: MeasuredTargets, root: Path, patches: int) -> Path:
    """Return a repository with many patches, written where it does not exist.

    Every coadd is registered with the same file, one of the source's: planning asks for locations, and opens
    one file to learn what all of its kind look like. That one has to be the file's own patch, which is why it comes first.
    """
    if (root / "butler.yaml").exists():
        return root
    path = sample.plan.files.uri[sample.plan.patches.files[int(sample.plan.primary[sample.rows[0]]), 0]]
    settings = Config()
    settings["datastore", "formatters"] = datastore_formatter("lossy16")
    Butler.makeRepo(str(root), config=settings)
    with closing(Butler.from_config(str(root), run=_RUN, writeable=True)) as butler:
        skymaps = _skymaps(source, patches)
        _register(butler, source, skymaps)
        kind = DatasetType(
            _DATASET_TYPE, ("skymap", "tract", "patch", "band"), STORAGE_CLASS, universe=butler.dimensions
        )
        butler.registry.registerDatasetType(kind)
        expand = butler.registry.expandDataId
        refs = [
            DatasetRef(kind, expand(skymap=source.skymap, tract=s.tract, patch=patch, band=band), run=_RUN)
            for s, patch in _patches(sample, skymaps, patches)
            for band in source.bands
        ]
        butler.ingest(FileDataset(path=path, refs=refs), transfer="direct")
    return root


def _skymaps(source: SimulatedRepository, patches: int) -> list[SimulatedSkyMap]:
    """Return the source's tract and those after it, enough for so many patches."""
    config = source.config
    rows, columns = config.patch_grid
    count = 1 + -(-patches // ((rows - 2 * _INSET) * (columns - 2 * _INSET)))
    return [skymap_of(replace(config, tract=source.tract + i)) for i in range(count)]


def _patches(
    sample: MeasuredTargets, skymaps: list[SimulatedSkyMap], patches: int
) -> list[tuple[SimulatedSkyMap, int]]:
    """Return skymaps and patch numbers, the one of the real file first."""
    real = int(sample.plan.patch[sample.rows[0]])
    found = [(skymaps[0], real)]
    for skymap in skymaps:
        for row in range(_INSET, skymap.grid.y - _INSET):
            for column in range(_INSET, skymap.grid.x - _INSET):
                patch = row * skymap.grid.x + column
                if skymap is not skymaps[0] or patch > real:
                    found.append((skymap, patch))
    return found[:patches]


def _register(butler: Butler, source: SimulatedRepository, skymaps: list[SimulatedSkyMap]) -> None:
    insert = butler.registry.insertDimensionData
    limits = {"visit_max": 1, "exposure_max": 1, "detector_max": 1}
    insert("instrument", {"name": "LSSTCam", "class_name": "lsst.obs.lsst.LsstCam", **limits})
    insert("physical_filter", *({"instrument": "LSSTCam", "name": band, "band": band} for band in source.bands))
    insert("skymap", skymaps[0].skymap_record())
    insert("tract", *(skymap.tract_record() for skymap in skymaps))
    insert("patch", *(record for skymap in skymaps for record in skymap.patch_records()))
    butler.collections.register(_RUN, CollectionType.RUN)


def _catalog(sample: MeasuredTargets, source: SimulatedRepository, path: Path, targets: int, patches: int) -> Path:
    """Return a Parquet table of targets spread evenly over the inner regions of the patches."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    places = _patches(sample, _skymaps(source, patches), patches)
    which = rng.integers(len(places), size=targets)
    ra, dec = np.empty(targets), np.empty(targets)
    for skymap in {id(s): s for s, _ in places}.values():
        numbers = [i for i, (s, _) in enumerate(places) if s is skymap]
        mine = np.flatnonzero(np.isin(which, numbers))
        boxes = np.array([skymap.inner_box(patch) for _, patch in places])[which[mine]]
        y, x = (_between(rng, boxes[:, 2 * axis], boxes[:, 2 * axis + 1]) for axis in range(2))
        ra[mine], dec[mine] = skymap.sky(y, x)
    with atomic_file(path) as part:
        ids = np.arange(targets, dtype=np.int64)
        pyarrow.parquet.write_table(pa.table({"object_id": ids, "ra": ra, "dec": dec}), part)
    return path


def _between(rng: np.random.Generator, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(low + rng.uniform(size=len(low)) * (high - 1 - low), np.float64)


def _check(plan: CutoutPlan, real: CutoutPlan) -> None:
    """Make sure that the planner looked at the file of the right patch."""
    if plan.border != real.border:
        raise PlanError(
            f"the Butler lists its datasets in another order than it used to: the sample file's border is {plan.border}, "
            f"not {real.border}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    own = {"targets": 1_000_000, "patches": 1000, "folder": "bench"}
    settings, own = settings_of(__doc__, own, arguments)
    sample = sample_of(settings, progress=True)
    source = SimulatedRepository.load(settings.demo)
    Path(own["folder"]).mkdir(parents=True, exist_ok=True)
    report([measure_planning(sample, source, Path(own["folder"]), own["targets"], own["patches"])], load=own["load"])


if __name__ == "__main__":
    main()
