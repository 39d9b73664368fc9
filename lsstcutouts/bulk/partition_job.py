"""Drives work on all partitions of a catalog into one folder: begins, continues, and finishes it as a HATS collection."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self

from ..catalog.healpix import Cell
from ..catalog.partitions import LargeCatalog, Partition, PartitionRows
from ..errors import ConfigurationError, EmptyCatalogError, WriteError
from ..plan.read_options import check_choice
from ..read.exports.export_files import FILES, FINISHED
from ..source.writing import atomic_file
from .engines import ENGINES, dask_client, run_here, run_on_dask, workers_of_a_node
from .finished import PartitionResult, read_results
from .hats_files import write_hats
from .partition_progress import partition_progress
from .planners import close_planner

__all__ = ["JobResult", "PartitionJob", "check_run", "run_job"]


@dataclass(frozen=True)
class JobResult:
    """What an export or a prediction has written so far.

    Attributes
    ----------
    folder
        Of the HATS collection.
    rows, delivered
        Rows of the finished partitions, and those with pixels or predictions.
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


class PartitionJob(ABC):
    """Work on the partitions of a catalog that may be begun, continued and looked at.

    A folder holds a description of the job, a file for each finished partition, and a HATS catalog. The description is
    compared when the job is continued.

    Attributes
    ----------
    folder, catalog
        The output, and the catalog.
    """

    noun: ClassVar[str]
    """What it is, for messages."""
    description_file: ClassVar[str]
    """Name of the file with the description."""
    hats_name: ClassVar[str]
    """Name of the HATS catalog in the collection, and of its folder."""

    folder: Path
    catalog: LargeCatalog

    @abstractmethod
    def work(self, workers: int = 1) -> Callable[[Partition], PartitionResult]:
        """Return the work on a partition, for so many processes on a node; it pickles."""

    def check_work(self, *, here: bool) -> None:  # noqa: B027 - most jobs have nothing to check
        """Raise what would make every partition fail; called before the first one, which is worked on ``here`` or elsewhere."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return what must be equal for the job to be continued."""

    @abstractmethod
    def settings_before(self) -> Mapping[str, Any]:
        """Return these settings from the description in the folder."""

    @abstractmethod
    def write_description(self) -> None:
        """Write the description into the folder."""

    @abstractmethod
    def fingerprint(self, rows: PartitionRows) -> str:
        """Return the fingerprint of the plan of a partition, as its result has it."""

    @abstractmethod
    def properties(self, results: Sequence[PartitionResult]) -> Mapping[str, str]:
        """Return what the properties of the HATS catalog say besides those of HATS."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close_planner()

    @property
    def _begun(self) -> bool:
        return (self.folder / self.description_file).is_file()

    def begin(self) -> list[PartitionResult]:
        """Return the partitions that are finished; nothing is written.

        Raises
        ------
        ConfigurationError
            If the folder holds something else, or has other settings: the message names the difference.
        """
        if self._begun:
            done = read_results(self.folder, self.catalog.cells)
            if self._nothing_finished():
                return []
            self._check_settings()
            if len(done) < len(self.catalog):
                self._check_repository(done)
            return done
        # Another process may begin the same job now, or was killed when it did.
        own = FINISHED, f".{self.description_file}"
        try:
            others = [one for one in self.folder.iterdir() if not one.name.startswith(own)]
        except FileNotFoundError:
            others = []
        except OSError as error:  # a file, or not to be read
            raise ConfigurationError(
                f"output={self.folder} cannot be used as a folder: {error}; give a new one"
            ) from error
        if others:
            article = "an" if self.noun[0] in "aeiou" else "a"
            raise ConfigurationError(f"output={self.folder} exists and is not {article} {self.noun}; give a new folder")
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
            As in `lsstcutouts.export`.
        """
        finished = {result.cell: result for result in done}
        number, parts = part
        count = len(self.catalog)
        mine = self.catalog.cells[(number - 1) * count // parts : number * count // parts]
        todo = [cell for cell in mine if cell not in finished]
        here = engine == "threads" and scheduler is None
        if todo:
            self.check_work(here=here)
        self.prepare()
        if todo:
            (self.folder / FILES).unlink(missing_ok=True)  # it is not complete
            partitions = map(self.catalog.partition, todo)
            with closing(
                run_here(self.work(), partitions) if here else self._run_on_dask(partitions, scheduler, workers)
            ) as results:
                for result in results:
                    if not result.error:
                        finished[result.cell] = result
                    yield result
        self.finish(finished)

    def _run_on_dask(
        self, partitions: Iterable[Partition], scheduler: Any, workers: int | None
    ) -> Generator[PartitionResult]:
        with (
            dask_client(scheduler, workers) as client,
            closing(run_on_dask(self.work(workers_of_a_node(client)), partitions, client)) as results,
        ):
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
        found |= {one.cell: one for one in read_results(self.folder, [c for c in self.catalog.cells if c not in found])}
        if len(found) < len(self.catalog):
            return False
        results = [found[cell] for cell in self.catalog.cells]
        if not any(result.files for result in results):
            raise EmptyCatalogError(
                f"{self.catalog.label}: no row meets {self.catalog.subset}; check names, units and area."
            )
        if not (self.folder / FILES).exists():
            about = {f"lsstcutouts_{name}": value for name, value in self.properties(results).items()}
            write_hats(self.folder, self.hats_name, results, about)
            files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != FILES)
            sizes = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}
            with atomic_file(self.folder / FILES) as part:
                part.write_text(json.dumps({"files": sizes}, indent=0) + "\n", encoding="utf-8")
        return True

    def result(self, results: Iterable[PartitionResult], seconds: float) -> JobResult:
        """Return the sum of the results of partitions, which may have failed."""
        found, partitions = list(results), len(self.catalog)
        done = [one for one in found if not one.error]
        outcomes, failures = Counter[str](), Counter[str]()
        for one in done:
            outcomes.update(one.outcomes)
            failures.update(one.failures)
        return JobResult(
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

    def _nothing_finished(self) -> bool:
        return not any((self.folder / FINISHED).glob("*.parquet"))

    def prepare(self) -> None:
        """Create the folder with the description, unless another process has done it; `run` does this itself."""
        try:
            (self.folder / FINISHED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self.folder} cannot be written: {error}; give another output=") from error
        if not self._begun or self._nothing_finished():  # then it may be of other settings
            self.write_description()
        self._check_settings()

    def _check_settings(self) -> None:
        before = self.settings_before()
        for name, now in self.settings().items():
            if str(before.get(name)) != str(now):
                raise ConfigurationError(
                    f"{self.folder / self.description_file}: the {self.noun} was begun with another {name}:"
                    f" {before.get(name)}, now {now}; give the same settings, or a new output="
                )

    def _check_repository(self, done: Sequence[PartitionResult]) -> None:
        """Raise `ConfigurationError` if the repository has other images for the rows of a finished partition."""
        last = max(done, key=lambda one: (one.delivered > 0, bool(one.fingerprint), -one.rows), default=None)
        if last is None or not last.fingerprint:
            return
        rows = self.catalog.read(self.catalog.partition(last.cell))
        if self.fingerprint(rows) != last.fingerprint:
            raise ConfigurationError(
                f"{self.folder}: the repository has other images for partition {last.cell} than when the {self.noun} read"
                " them; give a new output="
            )


def check_run(engine: str, part: tuple[int, int]) -> None:
    """Raise `ConfigurationError` if there is no such engine or part."""
    check_choice("engine", engine, ENGINES)
    if len(part) != 2 or not all(isinstance(value, int) for value in part) or not 1 <= part[0] <= part[1]:
        raise ConfigurationError(f"part={part} must be two numbers (i, n) with i from 1 to n")


def run_job(
    job: PartitionJob,
    done: Iterable[PartitionResult],
    *,
    progress: bool | Callable[[PartitionResult], None] = False,
    part: tuple[int, int] = (1, 1),
    **run: Any,
) -> JobResult:
    """Work on the partitions that are not ``done``, and return what is there then.

    Parameters
    ----------
    job, done
        The job, and what its ``begin`` returned.
    progress
        Whether a bar is shown, or what is called with the result of each partition.
    part
        As for `PartitionJob.run`.
    run
        Further arguments of `PartitionJob.run`.
    """
    start, results = perf_counter(), list(done)
    left = -(-(len(job.catalog) - len(results)) // part[1])
    with partition_progress(job.noun, left, shown=progress is True) as bar:
        update = progress if callable(progress) else bar
        for result in job.run(list(results), part=part, **run):
            results.append(result)
            update(result)
    return job.result(results, perf_counter() - start)
