"""Writes the Butler repository: registry records, one dataset per file, and the truth table."""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet
from lsst.daf.butler import (  # type: ignore[attr-defined]
    Butler,
    CollectionType,
    Config,
    DatasetProvenance,
    DatasetRef,
    DatasetType,
    FileDataset,
    FormatterV2,
)

from ..errors import ConfigurationError, RepositoryNotFoundError
from ..source.progress import progress_bar
from . import dp1, dp2
from .config import KNOWN_BANDS, SimulationConfig
from .exposure import CoaddPixels, expose_patch
from .holes import punched
from .simulated_skymap import SimulatedSkyMap, skymap_of
from .truth import Sky, draw_sky

__all__ = ["SimulatedRepository", "simulate"]

TRUTH = "truth.parquet"
DESCRIPTION = "simulation.json"

_INSTRUMENT = {"dp2": "LSSTCam", "dp1": "LSSTComCam"}
_CLASS_NAME = {"dp2": "lsst.obs.lsst.LsstCam", "dp1": "lsst.obs.lsst.LsstComCam"}
_FILTERS = {
    "dp2": ("u_24", "g_6", "r_57", "i_39", "z_20", "y_10"),
    "dp1": ("u_02", "g_01", "r_03", "i_06", "z_03", "y_04"),
}
_RUN = {"dp2": "LSSTCam/runs/DRP/DP2/simulated/deep_coadd_rewrite", "dp1": "LSSTComCam/runs/DRP/DP1/simulated"}
_CHAIN = {"dp2": "dp2", "dp1": "LSSTComCam/DP1"}
_STORAGE_CLASS = {"dp2": dp2.STORAGE_CLASS, "dp1": dp1.STORAGE_CLASS}


@dataclass(frozen=True)
class SimulatedRepository:
    """A simulated repository on disk, and the names that are needed to read from it.

    Attributes
    ----------
    root
        Folder of the repository, for `lsst.daf.butler.Butler`.
    collections
        Chained collection with all coadds.
    skymap
        Name of the skymap.
    tract, patches, bands
        Tract, patches and bands with coadds.
    missing
        ``(patch, band)`` of the missing coadds.
    release
        ``"dp2"`` or ``"dp1"``.
    dataset_type
        Dataset type of the coadds.
    """

    root: Path
    collections: str
    skymap: str
    tract: int
    patches: tuple[int, ...]
    bands: tuple[str, ...]
    missing: tuple[tuple[int, str], ...]
    release: str
    dataset_type: str = "deep_coadd"

    @property
    def truth(self) -> Path:
        """Parquet file of the targets, with ``object_id``, ``ra``, ``dec`` (degrees ICRS), ``label`` and other columns."""
        return self.root / TRUTH

    @property
    def config(self) -> SimulationConfig:
        """Settings of the simulation, read from the folder."""
        return SimulationConfig(**json.loads((self.root / DESCRIPTION).read_text())["config"])

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """Return a repository that `simulate` has written.

        Raises
        ------
        RepositoryNotFoundError
            If there is none.
        """
        root = Path(root)
        try:
            values = json.loads((root / DESCRIPTION).read_text())["repository"]
        except FileNotFoundError as error:
            raise RepositoryNotFoundError(
                f"there is no simulated repository at {root}; write one with simulate({str(root)!r})"
            ) from error
        values |= {"patches": tuple(values["patches"]), "bands": tuple(values["bands"])}
        return cls(root=root, **values | {"missing": tuple((p, b) for p, b in values["missing"])})

    def describe(self) -> str:
        """Return a description in one line."""
        files = len(self.patches) * len(self.bands) - len(self.missing)
        return (
            f"{self.release} repository {self.root}: {files} coadds of tract {self.tract}, {len(self.patches)} patches, "
            f"bands {''.join(self.bands)}, collection {self.collections}"
        )


def simulate(
    root: str | Path,
    config: SimulationConfig | None = None,
    *,
    progress: bool = False,
    overwrite: bool = False,
) -> SimulatedRepository:
    """Write a Butler repository with simulated images of a known sky.

    The repository appears at ``root`` only when it is complete; an interrupted call leaves nothing.

    Parameters
    ----------
    root
        Output folder; it must be empty or not exist.
    config
        Settings of the simulation; by default a small DP2 repository of four patches.
    progress
        Whether to show a progress bar.
    overwrite
        Whether to replace an earlier simulated repository. Other folders that are not empty are never replaced.

    Returns
    -------
    SimulatedRepository
        Location and contents.

    Raises
    ------
    ConfigurationError
        If ``root`` is not empty, or the targets do not fit the patches.
    """
    root, config = Path(root), config or SimulationConfig()
    _check_free(root, overwrite)
    skymap = skymap_of(config)
    sky = draw_sky(config, skymap)
    result = _result(root, config, skymap)
    with _whole_or_nothing(root) as folder:
        pyarrow.parquet.write_table(sky.truth, folder / TRUTH)
        _write_butler(folder, config, skymap, sky, progress)
        _write_description(folder, config, result)
    return result


def _check_free(root: Path, overwrite: bool) -> None:
    if root.is_dir() and not any(root.iterdir()):
        return
    if not root.exists() or (overwrite and (root / DESCRIPTION).is_file()):
        return
    advice = (
        "it is not a simulated repository, so overwrite does not replace it"
        if overwrite
        else "or replace a simulated repository with overwrite"
    )
    raise ConfigurationError(f"{root} is not an empty folder; choose another folder; {advice}")


@contextmanager
def _whole_or_nothing(root: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes ``root`` at the end, or is removed after an error."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        yield folder
        if root.exists():
            root.rename(Path(scratch) / "old")
        folder.rename(root)


def _result(root: Path, config: SimulationConfig, skymap: SimulatedSkyMap) -> SimulatedRepository:
    return SimulatedRepository(
        root=root,
        collections=_CHAIN[config.release],
        skymap=skymap.name,
        tract=config.tract,
        patches=config.patch_ids,
        bands=config.band_names,
        missing=tuple(sorted(config.missing_files)),
        release=config.release,
        dataset_type=config.dataset_type,
    )


def _write_description(folder: Path, config: SimulationConfig, result: SimulatedRepository) -> None:
    values = asdict(result)
    del values["root"]
    (folder / DESCRIPTION).write_text(json.dumps({"repository": values, "config": asdict(config)}, indent=1))


def _write_butler(folder: Path, config: SimulationConfig, skymap: SimulatedSkyMap, sky: Sky, progress: bool) -> None:
    settings = Config()
    settings["datastore", "formatters"] = dp2.datastore_formatter(config.compression)
    Butler.makeRepo(str(folder), config=settings)
    files = len(config.patch_ids) * len(config.band_names) - len(config.missing_files)
    with (
        closing(Butler.from_config(str(folder), run=_RUN[config.release], writeable=True)) as butler,
        ThreadPoolExecutor(max_workers=1) as pool,
        progress_bar(f"Writing {config.release} coadds", files, shown=progress, stays=True) as update,
    ):
        _register(butler, config, skymap)
        writer = _Writer(butler, _dataset_type(butler, config), config, skymap, folder)
        write = writer.put if config.release == "dp2" else writer.ingest
        for done, pixels in enumerate(_exposures(config, skymap, sky, pool), 1):
            # In this thread: astropy changes the process's warning filters while it writes.
            write(punched(pixels, config))
            update(done)


def _dataset_type(butler: Butler, config: SimulationConfig) -> DatasetType:
    dimensions = ("skymap", "tract", "patch", "band")
    kind = DatasetType(config.dataset_type, dimensions, _STORAGE_CLASS[config.release], universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    return kind


def _register(butler: Butler, config: SimulationConfig, skymap: SimulatedSkyMap) -> None:
    name = _INSTRUMENT[config.release]
    limits = {"visit_max": 2**31 - 1, "exposure_max": 2**31 - 1, "detector_max": 1000}
    filters = dict(zip(KNOWN_BANDS, _FILTERS[config.release], strict=True))
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": name, "class_name": _CLASS_NAME[config.release], **limits})
    insert("physical_filter", *({"instrument": name, "name": f, "band": b} for b, f in filters.items()))
    # Real registries also list bands without any coadd.
    insert("physical_filter", {"instrument": name, "name": "empty", "band": "white"})
    insert("skymap", skymap.skymap_record())
    insert("tract", skymap.tract_record())
    insert("patch", *skymap.patch_records())
    butler.collections.register(_CHAIN[config.release], CollectionType.CHAINED)
    butler.collections.redefine_chain(_CHAIN[config.release], _RUN[config.release])


def _exposures(
    config: SimulationConfig, skymap: SimulatedSkyMap, sky: Sky, pool: ThreadPoolExecutor
) -> Iterator[CoaddPixels]:
    """Yield the pixels of all files; a thread simulates the next file while the caller writes this one."""
    files = chain.from_iterable(expose_patch(config, skymap, sky.sources, patch) for patch in config.patch_ids)
    pending = pool.submit(next, files, None)
    while (pixels := pending.result()) is not None:
        pending = pool.submit(next, files, None)
        yield pixels


class _AfwFormatter(FormatterV2):
    """Records the name of the formatter of afw, which is not installed."""

    supported_extensions = frozenset({".fits"})

    @classmethod
    def name(cls) -> str:
        return dp1.FORMATTER


@dataclass(frozen=True)
class _Writer:
    """Writes coadds into a repository."""

    butler: Butler
    kind: DatasetType
    config: SimulationConfig
    skymap: SimulatedSkyMap
    folder: Path

    def put(self, pixels: CoaddPixels) -> None:
        """Write a DP2 coadd."""
        coadd = dp2.cell_coadd(pixels, self.skymap, self.config.cell_shape, self._rng(pixels))
        self.butler.put(coadd, self.kind, self._data_id(pixels), provenance=DatasetProvenance())

    def ingest(self, pixels: CoaddPixels) -> None:
        """Write a DP1 coadd, which the Butler then moves into its datastore."""
        path = self.folder / f"{pixels.patch}-{pixels.band}.fits"
        dp1.write_exposure(path, pixels, self.skymap, self._rng(pixels), self._data_id(pixels))
        data_id = self.butler.registry.expandDataId(self._data_id(pixels))
        ref = DatasetRef(self.kind, data_id, run=_RUN[self.config.release])
        self.butler.ingest(FileDataset(path=str(path), refs=[ref], formatter=_AfwFormatter), transfer="move")

    def _rng(self, pixels: CoaddPixels) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, 4, pixels.patch, KNOWN_BANDS.index(pixels.band)])

    def _data_id(self, pixels: CoaddPixels) -> dict[str, Any]:
        return {"skymap": self.skymap.name, "tract": self.skymap.tract, "patch": pixels.patch, "band": pixels.band}
