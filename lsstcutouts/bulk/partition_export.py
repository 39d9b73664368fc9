"""Cuts the targets of one partition of a catalog and writes them: the unit of work of an export."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..catalog.healpix import Cell, divide
from ..catalog.partitions import LargeCatalog, Partition, PartitionRows, to_arrow_column
from ..catalog.row_sources import FrameRows
from ..errors import EmptyCatalogError
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Outcome, Quality
from ..plan.read_options import ReadOptions
from ..read.batch_report import BatchReport
from ..read.exports.export_description import ExportDescription
from ..read.exports.export_files import CATALOG
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader, Delivery, Request, default_threads, stream
from .export_rows import export_table, row_bytes
from .finished import OutputFile, PartitionResult, finished_path, read_results, write_finished, write_result
from .hats_files import partition_path
from .part_writer import group_rows, part_writer
from .planners import fingerprint_of, numbered_plan, plan_rows, process_cache

__all__ = ["PartitionExport"]

_CHUNK_BYTES = 2**24
"""Bytes of the planes of the rows that are read and written together."""

_MOST_ROWS = 65_536
"""Rows of a file: the writer holds a footer of 1 kB for each column of a row group, 900 MB of half a million rows and 76 columns."""

_EMPTY_ROWS = 8192
"""Rows of a row group of a file without any pixels: of small groups, the footer would be larger than the rows."""


@dataclass(frozen=True)
class PartitionExport:
    """Cuts and writes partitions; pickles, and may be called in any process.

    Attributes
    ----------
    folder
        Of the export.
    description, catalog, read
        What is cut, for which targets, and how.
    threads
        Decoding threads; by default as many as there are cores for each of the ``workers``.
    cache_bytes
        As in `LsstDataFetcher`, for all ``workers`` together.
    workers
        Processes of this node that do the same.
    most_bytes
        Bytes of a file; a partition of the catalog that makes more is divided into HEALPix children.
    run_id
        Differs for each run: a worker that outlives it opens the repository again.
    """

    folder: str
    description: ExportDescription
    catalog: LargeCatalog
    read: ReadOptions
    threads: int | None = None
    cache_bytes: float | str = "auto"
    workers: int = 1
    most_bytes: int = 400_000_000
    run_id: str = ""

    def __call__(self, partition: Partition) -> PartitionResult:
        """Write the files of a partition, and then that it is finished; a partition that is finished is left as it is."""
        cell, start = partition.cell, perf_counter()
        if finished_path(self.folder, cell).exists() and (done := read_results(self.folder, [cell])):
            return done[0]
        try:
            rows = self.catalog.read(partition)
        except EmptyCatalogError:
            result = PartitionResult(cell.order, cell.pixel)
            write_result(self.folder, result)
            return result
        plan = plan_rows(self.description, self.read, rows.catalog, self.run_id)
        work = _Work(self, cell, rows, plan)
        work.write()
        numbered = numbered_plan(plan, rows)
        result = replace(work.result(), fingerprint=fingerprint_of(numbered), seconds=perf_counter() - start)
        numbers = np.concatenate([plan.row, plan.rejected.row])
        write_finished(
            self.folder,
            result,
            numbered,
            file=work.file[numbers],
            place=work.place[numbers],
            outcome=work.outcome[numbers],
            quality=work.quality[numbers],
        )
        return result

    def of_frame(self, frame: Any, pixel: Any) -> Any:
        """Write a partition of which LSDB has the rows: for ``map_partitions(work.of_frame, include_pixel=True, meta=...)``.

        Parameters
        ----------
        frame
            Rows of the catalog, a pandas frame; an empty one writes nothing.
        pixel
            Its ``HealpixPixel``.

        Returns
        -------
        pandas.DataFrame
            One row: ``order``, ``pixel``, ``rows``, ``delivered`` and ``bytes`` of the partition; none for an empty frame.
        """
        from pandas import DataFrame

        names = ("order", "pixel", "rows", "delivered", "bytes")
        if not len(frame):
            return DataFrame({name: np.zeros(0, np.int64) for name in names})
        result = self(Partition(Cell(pixel.order, pixel.pixel), FrameRows(frame)))
        return DataFrame({name: np.array([getattr(result, name)], np.int64) for name in names})

    def options(self) -> ReaderOptions:
        """Return the options of the reader."""
        return ReaderOptions.of(self.read, planes=self.description.planes)


class _Work:
    """The rows of a partition, ``n`` in the order of ``_healpix_29``, while they are written."""

    def __init__(self, job: PartitionExport, cell: Cell, rows: PartitionRows, plan: CutoutPlan) -> None:
        self.job, self.cell, self.rows, self.plan = job, cell, rows, plan
        count, bands = len(rows), len(plan.bands)
        self.target = np.full(count, -1, np.int64)
        self.target[plan.row] = np.arange(len(plan))
        self.rejected = np.full(count, -1, np.int64)
        self.rejected[plan.rejected.row] = np.arange(len(plan.rejected))
        self.file = np.zeros(count, np.int32)
        self.place = np.zeros(count, np.int32)
        self.outcome = np.full(count, Outcome.NOT_READ, np.uint8)
        self.outcome[plan.rejected.row] = plan.rejected.reason
        self.quality = np.full((count, bands), int(Quality.BAND_ABSENT), np.int32)
        number, texts = plan.rejected.texts()
        self.reason = np.full(count, None, object)
        self.reason[plan.rejected.row] = np.array([*texts, None], object)[number]
        self.files = list[OutputFile]()
        self.failures: dict[str, int] = {}

    def write(self) -> None:
        """Read and write all rows, file after file."""
        job, width = self.job, row_bytes(self.job.description)
        small = width - row_bytes(replace(job.description, planes=()))
        weights = np.where(self.target >= 0, width, width - small) + self.rows.copied_bytes
        weights = np.maximum(weights, job.most_bytes // _MOST_ROWS)
        group = group_rows(job.description)
        chunk = group * max(1, _CHUNK_BYTES // (width * group))
        pieces = []
        for cell in divide(self.rows.healpix, weights, job.most_bytes, self.cell):
            low, high = np.searchsorted(self.rows.healpix, cell.bounds).tolist()
            pieces.append((cell, _chunks(low, high, chunk if len(self._targets(low, high)) else _EMPTY_ROWS)))
        requests = (
            Request(targets) for _, chunks in pieces for low, high in chunks if len(targets := self._targets(low, high))
        )
        threads = job.threads or max(1, default_threads() // job.workers)
        cache, files = process_cache(job.cache_bytes, job.workers, job.run_id)
        reader = CutoutReader(self.plan, job.options(), cache=cache, files=files)
        deliveries = stream(reader, requests, threads=threads, ahead=max(2, threads), then=_itself)
        try:
            for cell, chunks in pieces:
                self._write_file(cell, chunks, deliveries)
        finally:
            deliveries.close()  # type: ignore[attr-defined]  # a generator

    def _targets(self, low: int, high: int) -> NDArray[np.int64]:
        targets = self.target[low:high]
        return targets[targets >= 0]

    def _write_file(self, cell: Cell, chunks: list[tuple[int, int]], deliveries: Iterator[Delivery]) -> None:
        path = partition_path(CATALOG, cell)
        full = Path(self.job.folder) / path
        number, first, last = len(self.files), chunks[0][0], chunks[-1][1]
        group = group_rows(self.job.description) if len(self._targets(first, last)) else _EMPTY_ROWS
        with (
            part_writer(full, group) as writer,
            ThreadPoolExecutor(1) as thread,
        ):  # the next rows are read while Parquet is encoded
            written: Future[None] | None = None
            for low, high in chunks:
                delivery = next(deliveries) if len(self._targets(low, high)) else None
                self.file[low:high] = number
                self.place[low:high] = np.arange(low, high) - first
                table = self._table(low, high, delivery)
                if written is not None:
                    written.result()
                written = thread.submit(writer.write, table)
            if written is not None:
                written.result()
        self.files.append(OutputFile(path, cell.order, cell.pixel, writer.rows, full.stat().st_size))

    def _table(self, low: int, high: int, delivery: Delivery | None) -> pa.Table:
        """Return the rows from ``low`` to ``high``, and note what happened to them."""
        batch = {} if delivery is None else delivery.batch
        if delivery is not None:
            self._note(low, high, delivery.batch_report)
            real = ~np.asarray(batch["is_padding"])
            batch = batch if real.all() else {name: np.asarray(values)[real] for name, values in batch.items()}
        present = self.outcome[low:high] == Outcome.DELIVERED
        return export_table(
            self.job.description, self._known(low, high), self.rows.table.slice(low, high - low), batch, present
        )

    def _note(self, low: int, high: int, report: BatchReport) -> None:
        rows = low + np.flatnonzero(self.target[low:high] >= 0)
        self.outcome[rows], self.quality[rows] = report.outcome, report.quality
        for row, one in zip(rows.tolist(), report.outcome.tolist(), strict=True):
            if one != Outcome.DELIVERED:
                self.reason[row] = Outcome(one).text
        for failure, places in report.failures:
            self.failures[failure.cause] = self.failures.get(failure.cause, 0) + len(places)
            for row in rows[list(places)].tolist():
                if self.outcome[row] == Outcome.READ_ERROR:
                    self.reason[row] = f"{Outcome.READ_ERROR.text}: {failure.cause}"

    def _known(self, low: int, high: int) -> dict[str, pa.Array]:
        """Return what is known of rows besides their pixels."""
        plan, part = self.plan, slice(low, high)
        target, rejected = self.target[part], self.rejected[part]
        within = target >= 0
        lost = plan.rejected
        tract, patch = np.full(high - low, -1, np.int64), np.full(high - low, -1, np.int64)
        tract[within], patch[within] = plan.tract[target[within]], plan.patch[target[within]]
        tract[~within], patch[~within] = lost.tract[rejected[~within]], lost.patch[rejected[~within]]
        catalog = self.rows.catalog
        quality = self.quality[part]
        arrays = {
            "_healpix_29": self.rows.healpix[part],
            "object_id": catalog.object_id[part],
            "row": self.rows.row[part],
            "ra": catalog.ra[part],
            "dec": catalog.dec[part],
            "tract": tract,
            "patch": patch,
            "quality": quality,
            "band_present": quality & int(Quality.BAND_ABSENT) == 0,
            "yx0": np.where(within[:, None], plan.yx0[target], 0).astype(np.int64)
            if len(plan)
            else np.zeros((high - low, 2), np.int64),
            "offset": np.where(within[:, None], plan.offset[target], np.float32(0))
            if len(plan)
            else np.zeros((high - low, 2), np.float32),
        }
        known = {name: to_arrow_column(values) for name, values in arrays.items()}
        known["outcome"] = pa.array([Outcome(one).name.lower() for one in self.outcome[part].tolist()], pa.string())
        known["reason"] = pa.array(self.reason[part].tolist(), pa.string())
        return known

    def result(self) -> PartitionResult:
        """Return the result of the partition."""
        values, counts = np.unique(self.outcome, return_counts=True)
        return PartitionResult(
            self.cell.order,
            self.cell.pixel,
            rows=len(self.rows),
            outcomes={Outcome(v).name.lower(): int(c) for v, c in zip(values.tolist(), counts, strict=True)},
            files=tuple(self.files),
            failures=self.failures,
        )


def _chunks(low: int, high: int, step: int) -> list[tuple[int, int]]:
    """Return the bounds of chunks of at most ``step`` rows."""
    return [(at, min(at + step, high)) for at in range(low, high, step)]


def _itself(delivery: Delivery) -> Delivery:
    return delivery
