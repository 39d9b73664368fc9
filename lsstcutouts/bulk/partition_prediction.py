"""Predicts for the rows of one partition of a catalog: the unit of work of a prediction."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.healpix import Cell
from ..catalog.ids import Values
from ..catalog.partitions import LargeCatalog, Partition, PartitionRows, to_arrow_column
from ..catalog.row_sources import FrameRows, frame_to_arrow
from ..catalog.targets import Catalog
from ..errors import EmptyCatalogError
from ..loader.datamodule.module import CutoutDataModule
from ..loader.datamodule.portable import prediction_loader
from ..loader.device.tensors import Form
from ..loader.device.transfer import DirectTransfer
from ..plan.cutout_plan import CutoutPlan
from ..read.options import ReaderOptions
from ..read.reader import CutoutReader, default_threads
from ..read.report import Report
from ..sky.geometry import YX
from ..source.writing import atomic_file
from .finished import OutputFile, PartitionResult, finished_path, read_results, write_result
from .hats_files import partition_path
from .model_outputs import model_columns
from .planners import fingerprint_of, numbered_plan, plan_rows
from .prediction_table import joined, prediction_table, reserved_names
from .predictor import ModelMaker, Predictor, predictor_of

__all__ = ["PREDICTIONS", "CutImages", "PartitionPrediction"]

PREDICTIONS = "predictions"
"""Name of the HATS catalog of predictions."""


@dataclass(frozen=True)
class CutImages:
    """Which images of a repository a network sees, and how large.

    Attributes
    ----------
    repo, collections, dataset_type
        Where they are.
    bands, size
        Channels, and rows and columns in pixels.
    """

    repo: str
    collections: tuple[str, ...]
    dataset_type: str
    bands: tuple[str, ...]
    size: YX[int]


@dataclass(frozen=True, eq=False)
class PartitionPrediction:
    """Predicts and writes partitions; pickles, and may be called in any process.

    Attributes
    ----------
    folder
        Of the output.
    key
        Differs for each run: a worker that outlives it loads the model again.
    images, catalog
        What is cut, for which targets.
    data
        Reads and transforms the batches.
    model
        Makes the model; each process calls it once.
    accelerator, precision
        As Lightning's trainer takes them.
    workers
        Processes of this node that do the same, and share its cores and its memory.
    """

    folder: str
    key: str
    images: CutImages
    catalog: LargeCatalog
    data: CutoutDataModule
    model: ModelMaker
    accelerator: str = "auto"
    precision: str | int | None = None
    workers: int = 1

    def __call__(self, partition: Partition) -> PartitionResult:
        """Write the file of a partition, and then that it is finished; a partition that is finished is left as it is."""
        cell, start = partition.cell, perf_counter()
        if finished_path(self.folder, cell).exists() and (done := read_results(self.folder, [cell])):
            return done[0]
        try:
            rows = self.catalog.read(partition)
        except EmptyCatalogError:
            result = PartitionResult(cell.order, cell.pixel)
            write_result(self.folder, result)
            return result
        plan = self._plan(rows)
        table, failures = self._predicted(rows, plan)
        path = partition_path(PREDICTIONS, cell)
        full = Path(self.folder) / path
        with atomic_file(full) as part:
            pq.write_table(table, part, compression="zstd")
        result = PartitionResult(
            cell.order,
            cell.pixel,
            rows=len(rows),
            outcomes={one["values"]: one["counts"] for one in table["outcome"].value_counts().to_pylist()},
            files=(OutputFile(path, cell.order, cell.pixel, len(rows), full.stat().st_size),),
            failures=failures,
            fingerprint=fingerprint_of(numbered_plan(replace(plan, columns={}), rows)),
            seconds=perf_counter() - start,
        )
        write_result(self.folder, result)
        return result

    def of_frame(self, frame: Any, pixel: Any) -> Any:
        """Return the predictions for a partition as a frame: for ``map_partitions(work.of_frame, include_pixel=True)`` of LSDB.

        Parameters
        ----------
        frame
            Rows of the catalog, ``n``, a pandas frame; it may be empty.
        pixel
            Its ``HealpixPixel``.

        Returns
        -------
        pandas.DataFrame
            The columns of a file of predictions, ``n`` rows, with ``_healpix_29`` as index. Its types are those of Arrow.
        """
        from pandas import ArrowDtype

        try:
            rows = self.catalog.read(Partition(Cell(pixel.order, pixel.pixel), FrameRows(frame)))
        except EmptyCatalogError:
            rows = self._no_rows(frame)
        table, _ = self._predicted(rows, self._plan(rows))
        return table.to_pandas(types_mapper=ArrowDtype).set_index("_healpix_29")

    def _no_rows(self, frame: Any) -> PartitionRows:
        """Return a partition without rows, with the types of a frame."""
        none = np.zeros(0)
        source = frame_to_arrow(frame.iloc[:0], [*self.catalog.columns, self.catalog.object_id])
        kind = source[self.catalog.object_id].type
        ids: Any = none.astype(kind.to_pandas_dtype()) if pa.types.is_integer(kind) else []
        places = none.astype(np.int64)
        return PartitionRows(
            Catalog(ids, none, none, {}, self.catalog.label),
            places,
            places,
            source.select(list(self.catalog.columns)),
        )

    def _plan(self, rows: PartitionRows) -> CutoutPlan:
        """Return the plan of rows, with the columns that batches hold."""
        catalog, names = rows.catalog, list(self.catalog.columns)
        if names and len(rows):
            own = {"__ra__": catalog.ra, "__dec__": catalog.dec, "__id__": np.arange(len(rows))}
            table = rows.whole_table()
            for name, values in own.items():
                table = table.append_column(name, to_arrow_column(values))
            read = Catalog.from_any(table, columns=names, ra="__ra__", dec="__dec__", object_id="__id__", unit="deg")
            catalog = Catalog(catalog.object_id, catalog.ra, catalog.dec, read.columns, catalog.source)
        return plan_rows(self.images, self.data.read, catalog, self.key)

    def _predicted(self, rows: PartitionRows, plan: CutoutPlan) -> tuple[pa.Table, dict[str, int]]:
        """Return the table of predictions of rows, ``n`` in their order, and the number of rows of each read error."""
        predictor = predictor_of(self.key, self.model, self.data, self.accelerator, self.precision, self.workers)
        predicted, report = self._outputs(predictor, plan)
        table = prediction_table(replace(plan, columns={}), predicted, report)
        failures = Counter[str]()
        for failure, count in report.failures.items():
            failures[failure.cause] += count
        names = {"row": pa.array(rows.row), "object_id": to_arrow_column(rows.catalog.object_id)}
        columns = {"_healpix_29": pa.array(rows.healpix)}
        for name in ("object_id", "row", *(n for n in table.column_names if n not in names)):
            column = names.get(name, table[name])
            # Dictionaries would differ from file to file.
            columns[name] = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        copied = rows.whole_table()
        columns |= {name: copied[name] for name in copied.column_names}
        return pa.table(columns), dict(failures)

    def _outputs(self, predictor: Predictor, plan: CutoutPlan) -> tuple[dict[str, Values], Report]:
        """Return the outputs of the model for all targets, and what happened to each."""
        reserved = reserved_names(plan) | {"_healpix_29", *self.catalog.columns}
        if not len(plan):
            batch = self._blank(plan, predictor)
            return model_columns(predictor(batch, 0), batch, plan, reserved), Report(plan)
        threads = self.data.threads or max(1, default_threads() // self.workers)
        loader = prediction_loader(predictor.data, plan, predictor.device, threads)
        parts = [model_columns(predictor(batch, number), batch, plan, reserved) for number, batch in enumerate(loader)]
        return joined(parts), loader.report

    def _blank(self, plan: CutoutPlan, predictor: Predictor) -> Any:
        """Return a batch of one padding row of zeros: the model says with it which columns it has."""
        options = ReaderOptions.of(self.data.read, planes=self.data.planes)
        reader = CutoutReader(plan, options, cache=predictor.data.cache)
        empty = reader.read(np.zeros(0, np.int64))
        reader.close()
        arrays: dict[str, Any] = {
            name: [""] if isinstance(values, list) else np.zeros((1, *values.shape[1:]), values.dtype)
            for name, values in empty.items()
        }
        arrays = {**{name: np.zeros(1, np.float32) for name in self.catalog.columns}, **arrays}
        batch = Form(wire=self.data.transfer.wire).tensors({**arrays, "is_padding": np.ones(1, bool)})
        return DirectTransfer(predictor.device).begin(batch)()
