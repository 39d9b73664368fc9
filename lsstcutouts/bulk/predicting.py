"""Predicts for the rows of a catalog of any size and writes a HATS collection, partition by partition."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning as L

from .. import __version__
from ..catalog.partitions import LargeCatalog, PartitionRows
from ..errors import ConfigurationError, PlanError
from ..loader.datamodule.module import CutoutDataModule
from ..loader.datamodule.portable import prediction_settings, ready_to_predict
from ..plan.arguments import AngularSize
from ..plan.repository import as_names
from ..plan.splits.split_options import SPLITS
from ..read.exports.export_files import is_export
from ..source.writing import atomic_file
from .finished import PartitionResult
from .partition_job import JobResult, PartitionJob, check_run, run_job
from .partition_prediction import PREDICTIONS, CutImages, PartitionPrediction
from .planners import fingerprint_of, numbered_plan, open_planner, plan_rows, with_drawn_positions
from .prediction_table import DESCRIPTION
from .predictor import CheckpointModel, ModelMaker, check_accelerator, predictor_of

__all__ = ["Prediction", "file_digest", "predict"]

_ROWS = 20_000
"""Rows of a partition of a table in memory: minutes of work, so that little is lost and parts are even."""

_FORMAT = 1


class Prediction(PartitionJob):
    """A prediction that may be begun, continued and looked at; `predict` does all of it.

    The parameters are those of `predict`. Opening it asks the repository for one image, and reads the list of partitions of a
    HATS catalog, or the whole of another one.

    Parameters
    ----------
    about
        What else must be equal for it to be continued, by name: what ``model`` and its checkpoint are.
    """

    noun, description_file, hats_name = "prediction", DESCRIPTION, PREDICTIONS

    def __init__(
        self,
        data: CutoutDataModule,
        model: ModelMaker | type[L.LightningModule],
        output: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        accelerator: str = "auto",
        precision: str | int | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(output)
        check_accelerator(accelerator)
        make, known = _maker(model, checkpoint)
        catalog = data.catalog
        if is_export(data.repo):
            raise ConfigurationError(
                f"repo={data.repo} is an export, which is predicted into one file; give the repository to predict by partitions"
            )
        if isinstance(catalog, Mapping) and set(catalog) <= set(SPLITS):
            if "predict" not in catalog:
                raise ConfigurationError("the data module has no catalog to predict; give catalog= as one catalog")
            catalog = catalog["predict"]
        if data.split_options.expressions.get("predict"):
            raise ConfigurationError(
                "splits.select does not work with partitions; give catalog={path: ..., select: ...}, whose rows are all that"
                " are predicted"
            )
        images = CutImages(str(data.repo), as_names(data.collections), data.dataset_type, data.bands, None)  # type: ignore[arg-type]
        planner = open_planner(images, data.read, data.size)
        scale = planner.sample().pixel_scale
        scale = scale if data.read.grid is None else data.read.grid.scale(scale)
        size = data.size.pixels(scale) if isinstance(data.size, AngularSize) else data.size
        self.images = replace(images, size=size)
        pixels = {"pixels": list(size), "pixel_scale": [round(float(scale.y), 6), round(float(scale.x), 6)]}
        portable = ready_to_predict(data, pixels)
        rows = with_drawn_positions(catalog, planner, data.columns)
        self.catalog = LargeCatalog.open(rows, row_bytes=1, most_bytes=_ROWS, columns=data.columns)
        subset = self.catalog.subset
        self._settings: dict[str, Any] = {
            **(known if about is None else about),
            "catalog": self.catalog.identity,
            "columns": self.catalog.columns,
            "object_id": self.catalog.object_id,
            "select": subset.select,
            "cone": None if subset.cone is None else list(subset.cone),
            "precision": str(precision or "32-true"),
            **prediction_settings(portable),
            "size": f"{size.y} x {size.x} px",
        }
        self._settings["statistics"] = _short(json.dumps(self._settings["statistics"]))
        self._settings = json.loads(json.dumps(self._settings, default=str))
        self.job = PartitionPrediction(
            folder=str(self.folder.absolute()),
            key=uuid4().hex,
            images=self.images,
            catalog=replace(self.catalog, cells=(), _source=None),
            data=portable,
            model=make,
            accelerator=accelerator,
            precision=precision,
        )

    def work(self, workers: int = 1) -> PartitionPrediction:
        """Return the work on a partition, for so many processes on a node."""
        return replace(self.job, workers=workers)

    def check_work(self, *, here: bool) -> None:
        """Load the model: into this process if partitions are worked on here."""
        job = self.job
        if here:
            predictor_of(job.key, job.model, job.data, job.accelerator, job.precision, job.workers)
        else:
            job.model()

    def settings(self) -> dict[str, Any]:
        """Return what must be equal for the prediction to be continued."""
        return self._settings

    def settings_before(self) -> dict[str, Any]:
        """Return these settings from the description in the folder."""
        path = self.folder / self.description_file
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path} cannot be read: {error}; give a new output=") from error
        if values.get("format") != _FORMAT:
            raise PlanError(f"{path} has another format than {_FORMAT}, which this version reads; give a new output=")
        return dict(values["settings"])

    def write_description(self) -> None:
        """Write the description into the folder."""
        values = {
            "format": _FORMAT,
            "version": __version__,
            "label": self.catalog.label,
            "images": asdict(self.images),
            "settings": self._settings,
        }
        with atomic_file(self.folder / self.description_file) as part:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def fingerprint(self, rows: PartitionRows) -> str:
        """Return the fingerprint of the plan of a partition."""
        return fingerprint_of(
            numbered_plan(plan_rows(self.images, self.job.data.read, rows.catalog, self.job.key), rows)
        )

    def properties(self, results: Sequence[PartitionResult]) -> dict[str, str]:
        """Return what the properties of the HATS catalog say of the prediction."""
        plans = "".join(result.fingerprint for result in results)
        return {
            "repository": self.images.repo,
            "collections": " ".join(self.images.collections),
            "dataset_type": self.images.dataset_type,
            "bands": " ".join(self.images.bands),
            "catalog": f"{self.catalog.label} {self.catalog.identity}",
            "model": str(self._settings.get("model")),
            "checkpoint": str(self._settings.get("checkpoint")),
            "plan": hashlib.sha256(plans.encode()).hexdigest(),
            "version": __version__,
        }


def predict(
    data: CutoutDataModule,
    model: ModelMaker | type[L.LightningModule],
    output: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    accelerator: str = "auto",
    precision: str | int | None = None,
    engine: str = "threads",
    scheduler: Any = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    progress: bool | Callable[[PartitionResult], None] = True,
) -> JobResult:
    """Predict for all rows of a catalog of any size, and write a HATS collection with the partitions of the catalog.

    What is finished is kept: the same call continues after an interruption.

    Parameters
    ----------
    data
        Repository, catalog, bands, size and transforms; of a trained network
        ``CutoutDataModule.load_from_checkpoint(checkpoint, catalog=...)``. A HATS catalog is read partition by partition.
    model
        A LightningModule class, whose ``load_from_checkpoint`` is used with ``checkpoint``; or a function without arguments
        that returns a model. Each process calls it once, so it must pickle. The model's ``predict_step`` returns a dictionary
        with ``object_id`` ``(N,)`` and columns such as ``score`` ``(N,)`` or an embedding ``(N, D)``.
    output
        Folder: a new one, or one that a prediction with the same settings has begun.
    checkpoint
        A checkpoint of Lightning; all processes must find it.
    accelerator
        ``"cpu"``, ``"gpu"``, or ``"auto"``: a GPU if there is one. Of several workers on a node each takes the GPU of its
        number.
    precision
        As in Lightning's trainer.
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

    Raises
    ------
    ConfigurationError
        If a setting is invalid, or ``output`` holds something else or a prediction with other settings.
    LsstCutoutsError
        If the catalog or the repository cannot be opened. A partition that fails does not end the run: the result names it.
    """
    check_run(engine, part)
    with Prediction(data, model, output, checkpoint=checkpoint, accelerator=accelerator, precision=precision) as one:
        done = one.begin()
        return run_job(one, done, progress=progress, engine=engine, scheduler=scheduler, workers=workers, part=part)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return a hash of the content of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _maker(model: Any, checkpoint: str | os.PathLike[str] | None) -> tuple[ModelMaker, dict[str, str]]:
    """Return what makes a model, and what is known of it."""
    if isinstance(model, type) and issubclass(model, L.LightningModule):
        if checkpoint is None:
            raise ConfigurationError(f"checkpoint= is missing; {model.__name__} is loaded from it")
        path = Path(checkpoint).absolute()
        if not path.is_file():
            raise ConfigurationError(f"checkpoint={os.fspath(checkpoint)!r}: this file does not exist; check the path")
        return CheckpointModel(model, str(path)), {"model": _name(model), "checkpoint": file_digest(path)}
    if not callable(model) or isinstance(model, L.LightningModule):
        raise ConfigurationError(
            f"model must be a LightningModule class with checkpoint=, or a function that returns a model, got {model!r}"
        )
    known = {} if checkpoint is None else {"checkpoint": file_digest(checkpoint)}
    try:
        content = pickle.dumps(model)
    except Exception as error:  # whatever a user's object raises
        raise ConfigurationError(
            f"model cannot be pickled ({error}); give a function of a module, or functools.partial of one"
        ) from error
    return model, {"model": f"{_name(getattr(model, 'func', model))} {_short(content)}", **known}


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _short(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]
