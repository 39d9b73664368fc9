"""What callbacks leave behind: figures in the loggers of Lightning, pictures of mistakes."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsstcutouts.app.callbacks import CacheMonitor, WorstPredictions
from lsstcutouts.app.callbacks.worst import worst
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    # TensorBoard reads its own files with names that numpy and protobuf have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
]

FIGURES = {"hit_rate", "cache_bytes", "reserved_bytes", "evictions", "waits", "read_per_useful", "waited_seconds"}


def data_of(repo: SimulatedRepository, **changes: Any) -> CutoutDataModule:
    options: dict[str, Any] = {"batch_size": 8, "cache_bytes": "50 MB", "threads": 1, "columns": ("label",)}
    options |= {"normalisation": AsinhStretch(20.0), **changes}
    return CutoutDataModule(
        str(repo.root), "dp2", str(repo.truth), "gri", 24, splits={"train": 0.75, "val": 0.25}, **options
    )


def trainer_of(folder: Path, *callbacks: L.Callback, **changes: Any) -> L.Trainer:
    options: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "default_root_dir": folder}
    options |= {"enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    return L.Trainer(**{**options, "logger": False, "num_sanity_val_steps": 0, **changes}, callbacks=list(callbacks))


def model_of() -> LensClassifier:
    torch.manual_seed(0)
    return LensClassifier(LensFinder("gri", widths=[4]))


@pytest.fixture(scope="module")
def trained(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, Path]:
    """Return a training with validation in the middle of epochs, with two loggers and pictures of mistakes."""
    folder = tmp_path_factory.mktemp("logged")
    loggers = [CSVLogger(folder), TensorBoardLogger(folder, name="board")]
    callbacks = [CacheMonitor(every_n_steps=3), WorstPredictions(folder / "worst", count=5, every_n_epochs=2)]
    trainer = trainer_of(folder, *callbacks, logger=loggers, val_check_interval=0.5, log_every_n_steps=1)
    trainer.fit(model_of(), data_of(dp2_repo))
    return trainer, folder


def events(folder: Path) -> EventAccumulator:
    (path,) = folder.glob("board/version_0/events*")
    found = EventAccumulator(str(path))
    found.Reload()
    return found


def test_the_figures_arrive_in_csv_and_tensorboard(trained: tuple[L.Trainer, Path]) -> None:
    trainer, folder = trained
    with (folder / "lightning_logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    board = events(folder)
    steps = trainer.num_training_batches
    wanted = sorted({*range(3, int(steps) + 1, 3), steps, *(steps + s for s in range(3, int(steps) + 1, 3)), 2 * steps})
    for figure in sorted(FIGURES | {"cutouts_per_second"}):
        name = f"data/{figure}"
        in_csv = {int(row["step"]): float(row[name]) for row in rows if row.get(name)}
        on_board = {event.step: event.value for event in board.Scalars(name)}
        assert list(in_csv) == list(on_board) == wanted
        assert list(in_csv.values()) == pytest.approx(list(on_board.values()))
    # Validation in between neither stops the figures nor loses its own.
    assert len([row for row in rows if row.get("val_auc")]) == 4
    assert len(board.Scalars("val_auc")) == 4


def test_the_worst_are_drawn_and_logged(trained: tuple[L.Trainer, Path]) -> None:
    trainer, folder = trained
    (picture,) = (folder / "worst").iterdir()
    assert picture.name == "worst-0002.png"
    pixels = imread(picture)
    assert pixels.shape[1] > 500
    assert (pixels[..., :3].max(axis=2) > 0.5).any()
    images = events(folder).Images("worst")
    assert [image.step for image in images] == [trainer.num_training_batches * 3 // 2, trainer.global_step]
    assert (images[0].width, images[0].height) == (pixels.shape[1], pixels.shape[0])


class Watch(WorstPredictions):
    """Keeps what it would draw."""

    def _draw(self, trainer: L.Trainer, found: dict[str, Any]) -> None:
        super()._draw(trainer, found)
        self.found = found


def test_the_worst_have_the_largest_loss(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data, watch, model = data_of(dp2_repo), Watch(tmp_path, count=6), model_of()
    trainer_of(tmp_path, watch).validate(model, data, verbose=False)
    wanted: dict[int, tuple[float, float]] = {}
    model.eval()
    for batch in data.val_dataloader():  # type: ignore[union-attr]
        with torch.inference_mode():
            score = model(data.transform(batch)["image"]).sigmoid().double()
        truth = batch["label"].double()
        loss = -(truth * score.log() + (1 - truth) * (1 - score).log())
        wanted |= dict(zip(batch["object_id"].tolist(), zip(loss.tolist(), score.tolist(), strict=True), strict=True))
    order = sorted(wanted, key=lambda one: -wanted[one][0])[:6]
    np.testing.assert_allclose(watch.found["loss"], [wanted[one][0] for one in order], rtol=1e-5)
    assert set(watch.found["object_id"].tolist()) == set(order)
    for one, score in zip(watch.found["object_id"].tolist(), watch.found["score"].tolist(), strict=True):
        assert score == pytest.approx(wanted[one][1], rel=1e-5)


@given(st.lists(st.lists(st.floats(0, 9), max_size=6), max_size=4), st.integers(1, 8))
def test_the_worst_of_all_processes(losses: list[list[float]], count: int) -> None:
    parts = [{name: np.array(part) for name in ("object_id", "score", "truth", "loss")} for part in losses]
    each = [worst([part], count) for part in parts]
    found = worst([one for one in each if len(one.get("loss", ()))], count)
    everything = sorted((loss for part in losses for loss in part), reverse=True)[:count]
    assert list(found.get("loss", [])) == everything


def test_what_cannot_be_drawn(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        WorstPredictions(tmp_path, count=0)

    class Silent(LensClassifier):
        def validation_step(self, batch: Any, _: int) -> Any:
            return {"score": batch["ra"]}

    with pytest.raises(ConfigurationError, match="to return object_id, score, truth, loss"):
        trainer_of(tmp_path, WorstPredictions(tmp_path)).validate(
            Silent(LensFinder("gri", widths=[4])), data_of(dp2_repo), verbose=False
        )
