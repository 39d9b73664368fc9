"""Predicts with the network of a checkpoint, into a Parquet file or a folder of partitions."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from ...bulk.prediction_table import META
from ...errors import ConfigurationError
from ...loader.checkpoint_state import read_checkpoint
from ...loader.datamodule.module import CutoutDataModule
from ...plan.quality import Outcome
from ..callbacks.predictions import PredictionWriter
from .checkpoint_configuration import merge_with_checkpoint
from .checkpoints import explain_state_mismatch
from .instantiation import check_settings, drop_replaced_defaults, explain_training_errors, instantiate_part
from .prediction_folder import Predicted, predict_into_folder, writes_folder
from .prediction_pictures import picture_of_highest
from .prepare import callbacks_of, check_gpu, ensure_simulation, silence_lightning, trainer_of
from .training_result import shown_path

__all__ = ["PredictionResult", "predict"]


@dataclass(frozen=True)
class PredictionResult:
    """Result of a prediction.

    Attributes
    ----------
    rows
        Number of rows of the catalog; each is in the file once.
    predicted
        Number of rows with a prediction.
    outcomes
        Number of rows of each `Outcome` that occurs.
    repo, catalog
        Source of the images and of the targets.
    output, picture
        Files that were written.
    checkpoint
        Source of the network.
    plan
        Fingerprint of the plan.
    """

    rows: int
    predicted: int
    outcomes: Mapping[str, int]
    repo: str
    catalog: str
    output: str
    checkpoint: str
    plan: str
    picture: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """Return the result as a table for the terminal."""
        table = Table(title="Prediction", show_header=False, title_justify="left")
        table.add_row("catalog rows", f"{self.rows:,}")
        for name, count in self.outcomes.items():
            outcome = Outcome[name.upper()]
            table.add_row("predicted" if outcome == Outcome.DELIVERED else outcome.text, f"{count:,}")
        table.add_row("catalog", shown_path(self.catalog))
        table.add_row("repository", shown_path(self.repo))
        table.add_row("checkpoint", shown_path(self.checkpoint))
        table.add_row("predictions", shown_path(self.output))
        table.add_row("picture", shown_path(self.picture) if self.picture else "not written")
        return table


def predict(cfg: DictConfig) -> PredictionResult | Predicted | None:
    """Predict as a configuration describes, and print the result.

    Parameters
    ----------
    cfg
        As ``configs/predict.yaml``.

    Returns
    -------
    PredictionResult, Predicted or None
        Also printed; `Predicted` for partitions in a folder. None in further processes.
    """
    where = f"checkpoint={cfg.checkpoint!r}"
    cfg = merge_with_checkpoint(drop_replaced_defaults(cfg), read_checkpoint(cfg.checkpoint), where, resume=False)
    if writes_folder(cfg):
        return _into_folder(cfg)
    path = _file(cfg.output)
    cfg.output = str(path.parent)  # the configuration groups expect a folder
    check_settings(cfg, "data", "model", "trainer", "callbacks")
    check_gpu(cfg)
    if not cfg.debug:
        silence_lightning()
        # The state of the training's callbacks is not needed.
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
    L.seed_everything(cfg.seed, verbose=False)
    ensure_simulation(cfg.get("simulation"), progress=not cfg.json)
    data: CutoutDataModule = instantiate_part(cfg, "data", CutoutDataModule)
    model: L.LightningModule = instantiate_part(cfg, "model", L.LightningModule)
    writer = PredictionWriter(path, checkpoint=cfg.checkpoint)
    trainer = trainer_of(_without_log(cfg), path.parent, [writer, *callbacks_of(cfg)])
    with explain_training_errors(model, data), explain_state_mismatch(where):
        trainer.predict(model, data, return_predictions=False, ckpt_path=cfg.checkpoint, weights_only=True)
    if not trainer.is_global_zero:
        return None
    picture = picture_of_highest(writer.table, data, path.with_suffix(".png")) if cfg.picture else None
    result = _result(writer, cfg, picture)
    Console().print_json(json.dumps(result.as_dict())) if cfg.json else Console().print(result.table())
    return result


def _into_folder(cfg: DictConfig) -> Predicted:
    check_settings(cfg, "data", "model", "callbacks")
    if not cfg.debug:
        silence_lightning()
    ensure_simulation(cfg.get("simulation"), progress=not cfg.json)
    return predict_into_folder(cfg)


def _file(output: str) -> Path:
    path = Path(output)
    if not path.suffix or path.is_dir():
        return path / "predictions.parquet"
    if path.suffix not in {".parquet", ".pq"}:
        raise ConfigurationError(
            f"output={output}: predictions are Parquet; give a name that ends in .parquet, or a folder"
        )
    return path


def _without_log(cfg: DictConfig) -> DictConfig:
    """Return a configuration without loggers."""
    changed = cfg.copy()
    OmegaConf.update(changed, "trainer.logger", False, force_add=True)
    return changed


def _result(writer: PredictionWriter, cfg: DictConfig, picture: Path | None) -> PredictionResult:
    about = json.loads(writer.table.schema.metadata[META.encode()])
    return PredictionResult(
        rows=about["rows"],
        predicted=about["outcomes"].get(Outcome.DELIVERED.name.lower(), 0),
        outcomes=about["outcomes"],
        repo=about["repo"],
        catalog=str(cfg.data.repo if cfg.data.catalog is None else cfg.data.catalog.predict),
        output=str(writer.path),
        checkpoint=cfg.checkpoint,
        plan=about["plan"],
        picture=None if picture is None else str(picture),
    )
