"""Cuts out the targets of a catalog of any size and writes them as a HATS collection, partition by partition."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from .. import __version__
from ..catalog.partitions import LargeCatalog, PartitionRows
from ..errors import ConfigurationError
from ..plan.arguments import AngularSize, SizeLike, parse_bands, parse_size
from ..plan.read_options import ReadOptions, check_choice
from ..plan.repository import as_names
from ..read.exports.export_description import ExportDescription
from ..read.exports.export_files import CATALOG, DESCRIPTION
from ..read.options import ReaderOptions
from ..sky.geometry import YX
from .estimate import ExportEstimate, estimate_export
from .export_rows import row_bytes
from .finished import PartitionResult
from .partition_export import PartitionExport
from .partition_job import JobResult, PartitionJob, check_run, run_job
from .planners import fingerprint_of, numbered_plan, open_planner, plan_rows, with_drawn_positions

__all__ = ["Export", "export"]

_MOST_BYTES = 400_000_000
"""Bytes of the pixels of a file: with the other columns and the footer it stays under 500 MB."""


class Export(PartitionJob):
    """An export that may be begun, continued and looked at; `export` does all of it.

    The parameters are those of `export`. Opening it asks the repository for one image, and reads the list of partitions of a
    HATS catalog, or the whole of another one.
    """

    noun, description_file, hats_name = "export", DESCRIPTION, CATALOG

    def __init__(
        self,
        catalog: Any,
        repo: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        collections: str | Sequence[str],
        bands: str | Iterable[str],
        size: SizeLike,
        dataset_type: str = "deep_coadd",
        planes: Sequence[str] = ("image", "variance", "valid"),
        read: ReadOptions = ReadOptions(),
        dtype: str = "float32",
        columns: Sequence[str] | None = None,
        ra: str | None = None,
        dec: str | None = None,
        object_id: str | None = None,
        unit: Any = None,
        select: str | None = None,
        cone: Sequence[float] | None = None,
        threads: int | None = None,
        cache_bytes: float | str = "auto",
        partition_bytes: int = _MOST_BYTES,
    ) -> None:
        options = ReaderOptions.of(read, planes=planes)
        check_choice("dtype", dtype, ("float32", "float16"))
        if options.missing_band == "nan" or options.fill == "noise":
            raise ConfigurationError(
                "an export keeps pixels as they were read; leave out missing_band=nan and fill=noise here, and give them to the"
                " training"
            )
        if options.grid is not None:
            raise ConfigurationError(
                "an export keeps pixels as they were read, on the pixel grid of the tract; leave out read.grid here, and read with it "
                "from the repository"
            )
        self.folder = Path(output).expanduser().absolute()  # processes of Dask may work in another folder
        description = ExportDescription(
            repo=_absolute(os.fspath(repo)),
            collections=as_names(collections),
            dataset_type=dataset_type,
            skymap="",
            bands=parse_bands(bands),
            size=YX(1, 1),
            planes=tuple(options.planes),
            mask_planes=tuple(options.mask_planes),
            flux_unit=options.flux_unit,
            fill=float(options.fill),
            normalise_psf=options.normalise_psf,
            dtype=dtype,
            psf_shape=None,
            numbered=False,
            catalog={},
            other={},
            version=__version__,
        )
        options.check_bands(description.bands)
        wanted = parse_size(size)
        run_id = uuid4().hex
        planner = open_planner(description, read, wanted, run_id)
        sample = planner.sample()
        pixels = wanted.pixels(sample.pixel_scale) if isinstance(wanted, AngularSize) else wanted
        options.check_size(pixels)
        psf_shape = sample.psf_shape if "psf" in options.planes else None
        description = replace(description, size=pixels, psf_shape=psf_shape, skymap=planner.repository.skymap)
        self.row_bytes = row_bytes(description)
        self.catalog = LargeCatalog.open(
            with_drawn_positions(catalog, planner, columns),
            row_bytes=self.row_bytes,
            most_bytes=partition_bytes,
            ra=ra,
            dec=dec,
            object_id=object_id,
            columns=columns,
            unit=unit,
            select=select,
            cone=cone,
        )
        known = {"columns": list(self.catalog.columns), "select": select, "cone": None if cone is None else list(cone)}
        policies = {f.name: str(getattr(read, f.name)) for f in fields(ReadOptions)}
        self.description = replace(
            description,
            numbered=self.catalog.numbered,
            catalog={"label": self.catalog.label, **known, "identity": self.catalog.identity},
            other={"partition_bytes": partition_bytes, "object_id": object_id, **policies},
        )
        self.job = PartitionExport(
            folder=str(self.folder),
            description=self.description,
            catalog=replace(self.catalog, cells=(), _source=None),
            read=read,
            threads=threads,
            cache_bytes=cache_bytes,
            most_bytes=partition_bytes,
            run_id=run_id,
        )

    def work(self, workers: int = 1) -> PartitionExport:
        """Return the work on a partition, for so many processes on a node."""
        return replace(self.job, workers=workers)

    def settings(self) -> dict[str, Any]:
        """Return what must be equal for the export to be continued."""
        return _settings(self.description)

    def settings_before(self) -> dict[str, Any]:
        """Return these settings from the description in the folder."""
        return _settings(ExportDescription.load(self.folder))

    def write_description(self) -> None:
        """Write the description into the folder."""
        self.description.save(self.folder)

    def fingerprint(self, rows: PartitionRows) -> str:
        """Return the fingerprint of the plan of a partition."""
        plan = plan_rows(self.description, self.job.read, rows.catalog, self.job.run_id)
        return fingerprint_of(numbered_plan(plan, rows))

    def properties(self, results: Sequence[PartitionResult]) -> dict[str, str]:
        """Return what the properties of the HATS catalog say of the export."""
        one, plans = self.description, "".join(result.fingerprint for result in results)
        return {
            "repository": one.repo,
            "collections": " ".join(one.collections),
            "dataset_type": one.dataset_type,
            "bands": " ".join(one.bands),
            "catalog": f"{one.catalog['label']} {one.catalog['identity']}",
            "plan": hashlib.sha256(plans.encode()).hexdigest(),
            "version": __version__,
        }

    def estimate(self, done: Sequence[PartitionResult] = ()) -> ExportEstimate:
        """Return what the partitions that are not ``done`` will take: some rows are planned, and a few cutouts read."""
        finished = {result.cell for result in done}
        left = [cell for cell in self.catalog.cells if cell not in finished]
        return estimate_export(self.job, self.catalog, left, self.catalog.rows)


def _absolute(repo: str) -> str:
    """Return the absolute path of a local repository; labels and URLs as they are."""
    path = Path(repo).expanduser()
    return str(path.absolute()) if "://" not in repo and path.exists() else repo


def _settings(description: ExportDescription) -> dict[str, Any]:
    """Return what must be equal for an export to be continued."""
    one = description
    catalog = {name: value for name, value in one.catalog.items() if name not in {"label", "identity"}}
    own = {f.name: getattr(one, f.name) for f in fields(ExportDescription)}
    others = {name: value for name, value in own.items() if name not in {"catalog", "numbered", "other", "version"}}
    size = f"{one.size.y} x {one.size.x} px"
    # What differs is named by the first: another column or select= also makes another catalog of a table in memory.
    return {**catalog, **one.other, "catalog": one.catalog["identity"], **others, "size": size}


def export(
    catalog: Any,
    repo: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    engine: str = "threads",
    scheduler: Any = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    progress: bool | Callable[[PartitionResult], None] = True,
    **settings: Any,
) -> JobResult:
    """Cut out the targets of a catalog of any size and write them as a HATS collection.

    What is finished is kept: the same call continues after an interruption. `CutoutDataModule` trains from the folder as from
    a repository.

    Parameters
    ----------
    catalog
        As `Catalog.from_any` takes it; a HATS catalog is read partition by partition.
    repo
        Path, URL or label of a Butler repository.
    output
        Folder of the export: a new one, or one that an export with the same settings has begun.
    engine
        ``"threads"``: this process; ``"dask"``: workers of ``dask.distributed``.
    scheduler
        With Dask: address of a scheduler, a ``Client``, or a cluster such as ``SLURMCluster``; by default processes of this
        machine.
    workers
        Number of these processes; by default one for each core.
    part
        ``(i, n)``: only the ``i``-th of ``n`` parts of the partitions, ``i`` from 1, for a Slurm array.
    progress
        Whether a bar is shown, or what is called with the result of each partition.
    settings
        ``collections``, ``bands``, ``size``, ``dataset_type``, ``planes``, ``read``, ``columns``, ``threads``, ``cache_bytes`` as
        in `LsstDataFetcher`; ``ra``, ``dec``, ``object_id``, ``unit``, ``select``, ``cone`` as in `Catalog.from_any`;
        ``dtype="float16"`` stores image and variance with half of the bytes; ``partition_bytes``, of a file at the most.

    Raises
    ------
    ConfigurationError
        If a setting is invalid, or ``output`` holds something else or an export with other settings.
    LsstCutoutsError
        If the catalog or the repository cannot be opened. A partition that fails does not end the export: the result names it.
    """
    check_run(engine, part)
    with Export(catalog, repo, output, **settings) as one:
        done = one.begin()
        one.estimate(done).check_disk(one.folder)
        return run_job(one, done, progress=progress, engine=engine, scheduler=scheduler, workers=workers, part=part)
