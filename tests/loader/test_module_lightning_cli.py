"""Lightning's own command line over the data module and the example's model: constructor types are all that it needs."""

import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI

from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import LensClassifier
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


@pytest.fixture(autouse=True)
def no_other_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pytest's own arguments: Lightning warns of two command lines."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls what jsonargparse will drop


def cli(*args: str, run: bool = True) -> LightningCLI:
    return LightningCLI(LensClassifier, CutoutDataModule, args=list(args), run=run, seed_everything_default=0)


def command(repo: SimulatedRepository, folder: Path) -> list[str]:
    return [
        f"--data.repo={repo.root}",
        "--data.collections=dp2",
        f"--data.catalog={repo.truth}",
        "--data.bands=gri",
        "--data.size=4.8 arcsec",
        "--data.batch_size=8",
        "--data.columns=[label]",
        '--data.splits={"train": 0.75, "val": 0.25}',
        "--data.cache_bytes=50 MB",
        "--data.normalisation=lsstcutouts.transforms.AsinhStretch",
        '--data.normalisation.scale={"g": 10.0, "r": 12.0, "i": 18.0}',
        "--data.normalisation.bands=gri",
        "--data.augmentations=lsstcutouts.transforms.RandomD4",
        "--data.read.quality=lsstcutouts.QualityPolicy",
        "--data.read.quality.min_valid=0.01",
        "--model.network=lsstcutouts.models.LensFinder",
        "--model.network.bands=gri",
        "--model.network.widths=[4]",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={folder}",
    ]


def test_a_command_line_becomes_a_configuration_that_trains(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli("fit", *command(dp2_repo, tmp_path), "--print_config")
    printed = capsys.readouterr().out
    settings: dict[str, Any] = yaml.safe_load(printed)
    assert settings["data"]["read"]["missing_band"] == "zero"
    assert settings["data"]["normalisation"]["init_args"]["scale"] == {"g": 10.0, "r": 12.0, "i": 18.0}
    assert settings["data"]["transfer"]["wire"] == "float32"
    (tmp_path / "config.in.yaml").write_text(printed)
    done = cli("fit", "--config", str(tmp_path / "config.in.yaml"), "--data.batch_size=4")
    data = done.datamodule
    assert isinstance(data, CutoutDataModule)
    assert isinstance(data.normalisation, AsinhStretch)
    assert data.batch_size == 4
    assert done.trainer.global_step == 2
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["lr"] == 0.003


def test_the_command_line_alone_trains_with_an_optimizer_and_a_schedule(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    own = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    own += ["--model.scheduler=lsstcutouts.models.schedules.Cosine", "--model.scheduler.end=0.5"]
    done = cli("fit", *command(dp2_repo, tmp_path), *own)
    (optimizer,) = done.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    torch.load(checkpoint, weights_only=True)


def test_types_are_checked(dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        "--data.transfer.wire=float17",
        "--data.read.missing_band=ignore",
        "--data.batch_size=many",
        "--data.nothing=1",
    ):
        with pytest.raises(SystemExit):
            cli("fit", *command(dp2_repo, tmp_path), wrong)
        assert wrong.split("=", maxsplit=1)[0].removeprefix("--") in capsys.readouterr().err


@pytest.mark.parametrize("kind", [CutoutDataModule, LensClassifier])
def test_the_help_shows_what_the_docstrings_say(kind: type) -> None:
    """Of each argument; a paragraph on several arguments would be shown for none."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "own")
    arguments = set(signature(kind).parameters)
    shown = {action.dest.removeprefix("own."): action.help for action in parser._actions}
    silent = {name for name in arguments if not shown.get(name) or str(shown[name]).startswith(("%", "("))}
    assert arguments <= set(shown)
    assert silent == set()
