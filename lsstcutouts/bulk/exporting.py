"""Cuts out the targets of a catalog of any size and writes them as a HATS collection, partition by partition."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

from .. import __version__
from ..catalog.healpix import Cell
from ..catalog.partitions import LargeCatalog, Partition
from ..errors import ConfigurationError, EmptyCatalogError, WriteError
from ..plan.arguments import AngularSize, SizeLike, parse_bands, parse_size
from ..plan.read_options import ReadOptions, check_choice
from ..plan.repository import as_names
from ..read.exports.export_description import DESCRIPTION, FINISHED, ExportDescription, is_export
from ..read.options import ReaderOptions
from ..sky.geometry import YX
from .engines import ENGINES, dask_client, run_here, run_on_dask, workers_of_a_node
from .export_rows import row_bytes
from .finished import PartitionResult, read_results
from .hats_files import write_hats
from .partition_export import PartitionExport, fingerprint_of, open_planner

__all__ = ["Export", "ExportResult", "export"]

_MOST_BYTES = 400_000_000
"""Bytes of the pixels of a file: with the other columns and the footer it stays under 500 MB."""

_COLLECTION = "collection.properties"
"""File that makes the folder a HATS collection: it is written last."""


@dataclass(frozen=True)
class ExportResult:
    """What an export has written so far.

    Attributes
    ----------
    folder
        Of the HATS collection.
    rows, delivered
        Rows of the finished partitions, and those with pixels.
    outcomes
        Number of rows by name of `Outcome`.
    bytes, files
        Of these partitions.
    partitions, finished, skipped
        Number of partitions of the catalog, of those that are finished, and of those that were finished before this run.
    failed
        What went wrong, by name of the partition.
    failures
        Read errors, with the number of rows that each affected.
    seconds
        Of this run.
    """

    folder: str
    rows: int
    delivered: int
    outcomes: dict[str, int]
    bytes: int
    files: int
    partitions: int
    finished: int
    skipped: int
    failed: dict[str, str]
    failures: dict[str, int]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether all partitions are finished."""
        return self.finished == self.partitions

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "complete": self.complete}


class Export:
    """An export that may be begun, continued and looked at; `export` does all of it.

    The parameters are those of `export`. Opening it asks the repository for one image, and reads the list of partitions of a
    HATS catalog, or the whole of another one.
    """

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
        self.run_id = uuid4().hex
        planner = open_planner(description, read, wanted, self.run_id)
        sample = planner.sample()
        pixels = wanted.pixels(sample.pixel_scale) if isinstance(wanted, AngularSize) else wanted
        options.check_size(pixels)
        psf_shape = sample.psf_shape if "psf" in options.planes else None
        description = replace(description, size=pixels, psf_shape=psf_shape, skymap=planner.repository.skymap)
        self.row_bytes = row_bytes(description)
        self.catalog = LargeCatalog.open(
            catalog,
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
            other={"partition_bytes": partition_bytes, "object_id": self.catalog.object_id, **policies},
        )
        self.job = PartitionExport(
            folder=str(self.folder),
            description=self.description,
            catalog=replace(self.catalog, cells=(), _source=None),
            read=read,
            threads=threads,
            cache_bytes=cache_bytes,
            most_bytes=partition_bytes,
            run_id=self.run_id,
        )

    def begin(self) -> list[PartitionResult]:
        """Create the folder, or continue an export in it; return the partitions that are finished.

        Raises
        ------
        ConfigurationError
            If the folder holds something else, or an export with other settings: the message names the difference.
        """
        if is_export(self.folder):
            self._check_settings(ExportDescription.load(self.folder))
            done = read_results(self.folder, self.catalog.cells)
            if len(done) < len(self.catalog):
                self._check_repository(done)
                (self.folder / _COLLECTION).unlink(missing_ok=True)  # a file of a complete export was removed
            return done
        try:
            # Another process may begin the same export now, or was killed when it did.
            if any(
                one.name != FINISHED and not one.name.startswith(f".{DESCRIPTION}") for one in _entries(self.folder)
            ):
                raise ConfigurationError(f"output={self.folder} exists and is not an export; give a new folder")
            (self.folder / FINISHED).mkdir(parents=True, exist_ok=True)
            self.description.save(self.folder)
        except OSError as error:
            raise WriteError(f"output={self.folder} cannot be written: {error}; give another folder") from error
        self._check_settings(ExportDescription.load(self.folder))
        return []

    def run(
        self,
        done: Sequence[PartitionResult],
        *,
        engine: str = "threads",
        scheduler: Any = None,
        workers: int | None = None,
        part: tuple[int, int] = (1, 1),
    ) -> Iterator[PartitionResult]:
        """Yield the result of each partition that was not finished, and finish the HATS catalog after the last one.

        Parameters
        ----------
        done
            What `begin` returned.
        engine, scheduler, workers, part
            As in `export`.
        """
        finished = {result.cell: result for result in done}
        number, parts = part
        count = len(self.catalog)
        mine = self.catalog.cells[(number - 1) * count // parts : number * count // parts]
        todo = [cell for cell in mine if cell not in finished]
        if todo:
            partitions = map(self.catalog.partition, todo)
            if engine == "threads" and scheduler is None:
                results = run_here(self.job, partitions)
            else:
                results = self._run_on_dask(partitions, scheduler, workers)
            with closing(results):
                for result in results:
                    if not result.error:
                        finished[result.cell] = result
                    yield result
        self.finish(finished)

    def _run_on_dask(
        self, partitions: Iterator[Partition], scheduler: Any, workers: int | None
    ) -> Generator[PartitionResult]:
        with dask_client(scheduler, workers) as client:
            job = replace(self.job, workers=workers_of_a_node(client))
            with closing(run_on_dask(job, partitions, client)) as results:
                yield from results

    def finish(self, known: Mapping[Cell, PartitionResult] | None = None) -> bool:
        """Make the partitions a HATS catalog if all are finished; return whether they are.

        Parameters
        ----------
        known
            Results of partitions that are known to be finished.

        Raises
        ------
        EmptyCatalogError
            If no partition has rows.
        """
        found = dict(known or {})
        others = [cell for cell in self.catalog.cells if cell not in found]
        found |= {result.cell: result for result in read_results(self.folder, others)}
        if len(found) < len(self.catalog):
            return False
        results = [found[cell] for cell in self.catalog.cells]
        if not any(result.files for result in results):
            raise EmptyCatalogError(
                f"{self.catalog.label}: no row meets {self.catalog.subset or 'the catalog, which is empty'}"
            )
        if not (self.folder / _COLLECTION).exists():
            one, plans = self.description, "".join(result.fingerprint for result in results)
            about = {
                "repository": one.repo,
                "collections": " ".join(one.collections),
                "dataset_type": one.dataset_type,
                "bands": " ".join(one.bands),
                "catalog": f"{one.catalog['label']} {one.catalog['identity']}",
                "plan": hashlib.sha256(plans.encode()).hexdigest(),
                "version": __version__,
            }
            write_hats(self.folder, results, {f"lsstcutouts_{name}": value for name, value in about.items()})
        return True

    def result(self, results: Iterable[PartitionResult], seconds: float) -> ExportResult:
        """Return the sum of the results of partitions, which may have failed."""
        found, partitions = list(results), len(self.catalog)
        done = [one for one in found if not one.error]
        outcomes, failures = Counter[str](), Counter[str]()
        for one in done:
            outcomes.update(one.outcomes)
            failures.update(one.failures)
        return ExportResult(
            folder=str(self.folder),
            rows=sum(one.rows for one in done),
            delivered=sum(one.delivered for one in done),
            outcomes=dict(outcomes),
            bytes=sum(one.bytes for one in done),
            files=sum(len(one.files) for one in done),
            partitions=partitions,
            finished=len(done),
            skipped=sum(one.skipped for one in done),
            failed={str(one.cell): one.error for one in found if one.error},
            failures=dict(failures),
            seconds=seconds,
        )

    def _check_settings(self, there: ExportDescription) -> None:
        mine = self.description
        for name in ("catalog", "other", *(f.name for f in fields(ExportDescription))):
            before, now = getattr(there, name), getattr(mine, name)
            if name == "version":
                continue
            if name in {"catalog", "other"}:
                for key in now:
                    if key != "label" and str(before.get(key)) != str(now[key]):
                        what = "catalog" if key == "identity" else key
                        raise ConfigurationError(_difference(self.folder, what, before.get(key), now[key]))
            elif str(before) != str(now):
                raise ConfigurationError(_difference(self.folder, name, before, now))

    def _check_repository(self, done: Sequence[PartitionResult]) -> None:
        """Raise `ConfigurationError` if the repository has other images for the rows of a finished partition."""
        last = max(
            done, key=lambda result: (result.delivered > 0, bool(result.fingerprint), -result.rows), default=None
        )
        if last is None or not last.fingerprint:
            return
        rows = self.catalog.read(self.catalog.partition(last.cell))
        plan = open_planner(self.description, self.job.read, run_id=self.run_id).plan(rows.catalog, may_be_empty=True)
        if fingerprint_of(replace(plan, row=rows.row[plan.row])) != last.fingerprint:
            raise ConfigurationError(
                f"{self.folder}: {self.description.repo} has other images for partition {last.cell} than when it was exported;"
                " give a new output="
            )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _absolute(repo: str) -> str:
    """Return the absolute path of a local repository; labels and URLs as they are."""
    path = Path(repo).expanduser()
    return str(path.absolute()) if "://" not in repo and path.exists() else repo


def _difference(folder: Path, name: str, before: Any, now: Any) -> str:
    return (
        f"{folder / DESCRIPTION}: the export was begun with another {name}: {before}, now {now}; give the same settings, or a"
        " new output="
    )


def export(
    catalog: Any,
    repo: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    engine: str = "threads",
    scheduler: Any = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    progress: Callable[[PartitionResult], None] | None = None,
    **settings: Any,
) -> ExportResult:
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
        Called with the result of each partition.
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
    check_choice("engine", engine, ENGINES)
    if len(part) != 2 or not all(isinstance(value, int) for value in part) or not 1 <= part[0] <= part[1]:
        raise ConfigurationError(f"part={part} must be two numbers (i, n) with i from 1 to n")
    start = perf_counter()
    one = Export(catalog, repo, output, **settings)
    results = one.begin()
    done = list(results)
    for result in one.run(done, engine=engine, scheduler=scheduler, workers=workers, part=part):
        results.append(result)
        if progress is not None:
            progress(result)
    return one.result(results, perf_counter() - start)
