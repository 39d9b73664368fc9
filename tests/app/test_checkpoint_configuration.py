"""The commands train and predict on one's own data: what a checkpoint keeps, gives back, and lets be changed."""

import copy
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from omegaconf import OmegaConf

from lsstcutouts.app.callbacks import PredictionWriter
from lsstcutouts.app.cli import main
from lsstcutouts.app.cli.quoting import with_run_folder
from lsstcutouts.app.training.checkpoint_configuration import plain_configuration
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..loader.test_module import trainer_of
from ..support.repositories import simulated_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@dataclass
class Project:
    """A user's folder with a repository and a catalog of its own, and a training in it that was started from there."""

    folder: Path
    repo: SimulatedRepository
    checkpoint: Path
    rows: int


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, on one line."""
    out, err = capfd.readouterr()
    return " ".join((out + err).split())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("my project")
    config = SimulationConfig(cells=2, cell=64, targets=98, bands="griz", seed=5)
    repo = simulated_copy(folder / "sky", config)
    table = pyarrow.parquet.read_table(repo.truth, columns=["object_id", "ra", "dec", "label"])
    pyarrow.csv.write_csv(table.rename_columns(["object_id", "ra", "dec", "is_lens"]), folder / "mine.csv")
    before = Path.cwd()
    os.chdir(folder)
    try:
        settings = ["data.repo=sky", "data.collections=dp2", "data.catalog=mine.csv", "data.bands=irg", "data.size=32"]
        settings += ["data.columns=[is_lens]", "model.label=is_lens", "data.batch_size=16", "data.cache_bytes=50 MB"]
        settings += ["model.network.widths=[4,8]", "data.normalisation.softening=2", "data.normalisation.sample=20"]
        assert main(["train", "data=dp2", *settings, *QUIET, "trainer.max_epochs=1", "output=runs/a", "seed=4"]) == 0
    finally:
        os.chdir(before)
    return Project(folder, repo, folder / "runs" / "a" / "last.ckpt", len(table))


QUIET = ("picture=false", "json=true")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_checkpoint_holds_the_whole_configuration(project: Project) -> None:
    run = torch.load(project.checkpoint, weights_only=True)["CutoutDataModule"]["run"]
    data, model = run["data"], run["model"]
    assert (data["repo"], data["catalog"]) == (str(project.folder / "sky"), str(project.folder / "mine.csv"))
    assert (data["collections"], data["bands"], data["size"], run["seed"]) == ("dp2", "irg", 32, 4)
    assert data["normalisation"]["_target_"] == "lsstcutouts.transforms.NoiseAsinh"
    assert (model["network"]["bands"], model["network"]["widths"], model["label"]) == ("irg", [4, 8], "is_lens")
    assert run["callbacks"]["keep_last"]["path"] == "${output}/last.ckpt"
    assert not {"output", "resume", "json", "simulation"} & set(run)


def test_predict_needs_nothing_but_the_checkpoint(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From anywhere: the user's own objects, by the statistics and bands of the training, as Python predicts them."""
    assert main(["predict", f"checkpoint={project.checkpoint}", *QUIET]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (result["rows"], result["predicted"]) == (project.rows, project.rows)
    assert (result["repo"], result["catalog"]) == (str(project.folder / "sky"), str(project.folder / "mine.csv"))
    table = pyarrow.parquet.read_table("predictions.parquet")
    own = pyarrow.csv.read_csv(project.folder / "mine.csv")
    assert table["object_id"].to_pylist() == own["object_id"].to_pylist()
    assert "is_lens" not in table.column_names
    assert not (elsewhere / "demo").exists()
    assert not (project.folder / "demo").exists()

    network = LensClassifier(LensFinder("irg", widths=(4, 8)), label="is_lens")
    data = CutoutDataModule.load_from_checkpoint(project.checkpoint, columns=())
    writer = PredictionWriter("python.parquet")
    trainer = trainer_of(elsewhere, callbacks=[writer])
    trainer.predict(network, data, return_predictions=False, ckpt_path=str(project.checkpoint), weights_only=True)
    assert writer.table["score"].to_pylist() == pytest.approx(table["score"].to_pylist(), abs=1e-6)


def test_resume_needs_nothing_but_the_checkpoint(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(project.folder / "runs" / "a", elsewhere / "b")
    assert main(["train", f"resume={run / 'last.ckpt'}", "trainer.max_epochs=2", "data.threads=1", *QUIET]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert result["epochs"] == 2
    # Its results go on where it was, also those of the log; nothing of the demo or of another run is written.
    assert Path(result["checkpoint"]) == run / "model.ckpt"
    assert {path.name for path in elsewhere.iterdir()} == {"b"}
    before, after = (torch.load(path, weights_only=True) for path in (project.checkpoint, run / "model.ckpt"))
    one, two = (checkpoint["CutoutDataModule"] for checkpoint in (before, after))
    assert two["data"] == one["data"]
    assert two["normalisation"] == one["normalisation"]
    assert (one["train"]["epoch"], two["train"]["epoch"]) == (0, 1)
    changed = {"trainer": one["run"]["trainer"] | {"max_epochs": 2}, "data": two["run"]["data"]}
    assert two["run"] == {**one["run"], **changed}
    assert {**two["run"]["data"], **one["run"]["data"], "threads": 1} == two["run"]["data"]


def test_resume_without_raising_the_epochs_uses_the_trainer_of_the_checkpoint(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"resume={project.checkpoint}", "output=c", *QUIET]) == 2
    assert "already has 1 epochs; increase trainer.max_epochs" in capfd.readouterr().err


REFUSED = {
    "data.bands=gri": "data.bands: irg in the checkpoint, gri given",
    "data.size=24": "data.size: 32 in the checkpoint, 24 given",
    "data.planes=[image,valid]": "data.planes: [image] in the checkpoint, [image, valid] given",
    "data.read.missing_band=nan": "data.read.missing_band: zero in the checkpoint, nan given",
    "data.read.flux_unit=native": "data.read.flux_unit: nJy in the checkpoint, native given",
    "normalisation=lupton": "data.normalisation._target_: lsstcutouts.transforms.NoiseAsinh in the checkpoint, "
    "lsstcutouts.transforms.Lupton given",
    "data.normalisation.softening=3": "data.normalisation.softening: 2 in the checkpoint, 3 given",
    "data.normalisation.statistics=x.yaml": "data.normalisation.statistics: none in the checkpoint, x.yaml given",
    "model.network.widths=[9]": "model.network.widths: [4, 8] in the checkpoint, [9] given",
}
REFUSED_IN_TRAINING = {
    "optimizer=sgd": "model.optimizer._target_: torch.optim.AdamW in the checkpoint, torch.optim.SGD given",
    "model.optimizer.lr=0.5": "model.optimizer.lr: 0.003 in the checkpoint, 0.5 given",
    "data.batch_size=7": "data.batch_size: 16 in the checkpoint, 7 given",
    "seed=5": "seed: 4 in the checkpoint, 5 given",
    "augmentation=none": "data.augmentations._target_: lsstcutouts.transforms.RandomD4 in the checkpoint, "
    "torch.nn.Identity given",
    "data.splits.shares={train: 0.5, val: 0.5}": "data.splits.shares: {train: 0.8, val: 0.2, test: 0.0} in the checkpoint",
}


@pytest.mark.parametrize("verb", ["predict", "train"])
def test_what_the_network_was_trained_on_cannot_be_changed(
    verb: str, project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = f"checkpoint={project.checkpoint}" if verb == "predict" else f"resume={project.checkpoint}"
    for setting, words in (REFUSED | (REFUSED_IN_TRAINING if verb == "train" else {})).items():
        output = "output=o" if verb == "train" else "output=o/p.parquet"
        assert main([verb, where, setting, output, "picture=false"]) == 2, setting
        text = said(capfd)
        assert words in text, text
        assert "because these settings differ from the training" in text


def test_predict_with_other_read_options_and_a_selection(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which targets are read, and from where, may change; ``data.splits.select`` selects what is predicted."""
    settings = ["data.read={tract: best, min_bands: 2}", "data.transfer.wire=float16", "data.columns=[is_lens]"]
    settings += ["data.splits.select=is_lens == 1", "output=chosen", *QUIET]
    assert main(["predict", f"checkpoint={project.checkpoint}", *settings]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    table = pyarrow.parquet.read_table("chosen/predictions.parquet")
    own = pyarrow.csv.read_csv(project.folder / "mine.csv")["is_lens"].to_numpy()
    scored = np.isfinite(table["score"].to_numpy(zero_copy_only=False).astype(float))
    assert result["predicted"] == np.sum(own == 1) == np.sum(scored)
    assert set(table["is_lens"].to_numpy()[scored]) == {1}
    refused = ["data.read={tract: best, missing_band: nan}", *QUIET]
    assert main(["predict", f"checkpoint={project.checkpoint}", *refused]) == 2
    text = said(capfd)
    assert "data.read.missing_band: zero in the checkpoint, nan given" in text
    assert "tract:" not in text


def test_resume_with_another_transfer(project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ["data.transfer.wire=float16", "data.splits.shares={train: 0.8, val: 0.2}", "trainer.max_epochs=2"]
    assert main(["train", f"resume={project.checkpoint}", "output=wire", *settings, *QUIET]) == 0
    run = torch.load("wire/model.ckpt", weights_only=True)["CutoutDataModule"]["run"]
    assert run["data"]["transfer"]["wire"] == "float16"
    assert run["data"]["splits"]["shares"] == {"train": 0.8, "val": 0.2, "test": 0.0}


def test_predictions_are_parquet(project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", f"checkpoint={project.checkpoint}", "output=o/scores.csv", "picture=false"]) == 2
    assert "output=o/scores.csv: predictions are Parquet" in said(capfd)
    assert not Path("o").exists()


def test_what_is_the_same_may_be_said_again(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the documentation asked for in earlier versions; and settings of how and where, of another repository too."""
    moved = elsewhere / "moved"
    shutil.copytree(project.folder / "sky", moved / "sky")
    rows = pyarrow.csv.read_csv(project.folder / "mine.csv").slice(10, 30)
    pyarrow.csv.write_csv(rows, moved / "some.csv")
    settings = ["data=dp2", "data.repo=moved/sky", "data.catalog=moved/some.csv", "normalisation=noise_asinh"]
    settings += ["data.normalisation.softening=2", "data.bands=[i,r,g]", "data.size=[32,32]", "model.label=is_lens"]
    settings += [
        "data.batch_size=7",
        "data.threads=1",
        "trainer=cpu",
        "seed=3",
        "data.columns=[is_lens]",
        "task=binary",
    ]
    settings += ["data.read.flux_unit=nJy", "model=lens_finder", "model.network.widths=[4,8]"]
    assert main(["predict", f"checkpoint={project.checkpoint}", *settings, "output=s", *QUIET]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (result["rows"], result["repo"]) == (30, "moved/sky")
    table = pyarrow.parquet.read_table("s/predictions.parquet")
    assert table["is_lens"].to_pylist() == rows["is_lens"].to_pylist()


def test_a_training_goes_on_with_a_copy_and_not_with_other_targets(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(project.folder / "sky", "sky")
    shutil.copy(project.folder / "mine.csv", "copy.csv")
    (elsewhere / "half.csv").write_text("".join((project.folder / "mine.csv").read_text().splitlines(True)[:60]))
    resume = ["train", f"resume={project.checkpoint}", "output=o", "trainer.max_epochs=2", "callbacks=none", *QUIET]
    assert main([*resume, "data.repo=sky", "data.catalog=half.csv"]) == 1
    text = said(capfd)
    assert "ResumeError: the training cannot be resumed with other targets or files" in text
    assert f"repo: {project.folder / 'sky'} in the checkpoint, {elsewhere / 'sky'} now" in text
    assert main([*resume, "data.repo=sky", "data.catalog=copy.csv"]) == 0
    assert not (elsewhere / "o" / "last.ckpt").exists()  # no callbacks were asked for


def test_checkpoints_that_cannot_be_used(project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence each, exit code 2; those of `read_checkpoint` stand in its own test."""
    whole = torch.load(project.checkpoint, weights_only=True)

    def changed(**run: Any) -> dict[str, Any]:
        state = copy.deepcopy(whole["CutoutDataModule"])
        for key, value in run.items():
            OmegaConf.update(holder := OmegaConf.create(state["run"]), key.replace("__", "."), value, merge=False)
            state["run"] = OmegaConf.to_container(holder)
        return {**whole, "CutoutDataModule": state}

    calls = {"_target_": "os.system", "command": "touch pwned"}
    own = {"_target_": "lsstcutouts.app.cli.main", "argv": ["simulate", "root=pwned"]}
    old = {name: whole["CutoutDataModule"][name] for name in ("train", "normalisation")}
    files = {
        "evil": (changed(model__network=calls), "names os.system, which is not a class of a network"),
        "own": (changed(model__network=own), "names lsstcutouts.app.cli.main, which is not a class of a network"),
        "gone": (changed(model__network={"_target_": "my_lost.Net"}), f"run the command in {project.folder}"),
        "net": (changed(model__network__widths=[4, 4]), "network.features.3.weight has the shape [8, 4, 3, 3] in"),
        "newer": (changed(version=99), "has a configuration of version 99"),
        "old": ({**whole, "CutoutDataModule": old}, "has no description of its training data"),
        "nothing": (
            {k: v for k, v in whole.items() if k != "CutoutDataModule"},
            "has no description of its training data",
        ),
    }
    for name, (content, words) in files.items():
        torch.save(content, f"{name}.ckpt")
        for verb, setting in (("predict", "checkpoint"), ("train", "resume")):
            output = ["output=o", "trainer.max_epochs=2"] if verb == "train" else ["output=p.parquet"]
            assert main([verb, f"{setting}={name}.ckpt", *output, "picture=false"]) == 2, name
            text = said(capfd)
            assert words in text, text
            assert "Traceback" not in text
    torch.save({k: v for k, v in whole.items() if k not in {"optimizer_states", "loops"}}, "weights.ckpt")
    assert main(["train", "resume=weights.ckpt", "output=o", *QUIET]) == 2
    assert "holds only the weights (save_weights_only)" in said(capfd)
    assert main(["predict", "checkpoint=weights.ckpt", *QUIET]) == 0
    assert not (elsewhere / "pwned").exists()


def test_a_checkpoint_that_python_wrote(project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It says what its data are, and the command line how the network is made."""
    data = CutoutDataModule.load_from_checkpoint(project.checkpoint)
    trainer = trainer_of(elsewhere, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(LensClassifier(LensFinder("irg", widths=(4,)), label="is_lens"), data)
    trainer.save_checkpoint("python.ckpt")
    capfd.readouterr()
    assert main(["predict", "checkpoint=python.ckpt", *QUIET]) == 2
    assert "has no description of its network; give model=..." in said(capfd)
    model = ["model=lens_finder", "model.network.widths=[4]", "model.network.bands=irg"]
    assert main(["predict", "checkpoint=python.ckpt", *model, *QUIET]) == 0
    (result,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert result["predicted"] == project.rows


NET = """
import lightning as L, torch
from torch import nn

class Net(L.LightningModule):
    def __init__(self, width: int, body: nn.Module):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 1)
    def forward(self, image): return self.head(self.body(image).mean((2, 3))).squeeze(1)
    def training_step(self, batch, _):
        return nn.functional.binary_cross_entropy_with_logits(self(batch["image"]), batch["is_lens"].float())
    def validation_step(self, batch, _): pass
    def predict_step(self, batch, _): return {"object_id": batch["object_id"], "score": self(batch["image"]).sigmoid()}
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.01)

def body(width): return nn.Conv2d(3, width, 3)
"""


def test_a_network_by_its_import_path(
    project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class and arguments are in the checkpoint; a function that makes a part is called only if one says so again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (elsewhere / "my_lens_net.py").write_text(NET)
    settings = ["data=custom", f"data.repo={project.folder / 'sky'}", f"data.catalog={project.folder / 'mine.csv'}"]
    settings += ["data.collections=dp2", "data.bands=irg", "data.size=32", "label=is_lens", "data.batch_size=16"]
    settings += ["+trainer.limit_train_batches=1", "trainer.max_epochs=1", "data.normalisation.sample=10"]
    own = ["model=custom", "model._target_=my_lens_net.Net", "+model.width=4"]
    by_class = ["+model.body._target_=torch.nn.Conv2d", "+model.body.in_channels=3", "+model.body.out_channels=4"]
    by_class += ["+model.body.kernel_size=3"]
    by_function = ["+model.body._target_=my_lens_net.body", "+model.body.width=4"]
    for name, body in (("a", by_class), ("b", by_function)):
        assert main(["train", *settings, *own, *body, *QUIET, f"output={name}"]) == 0
    assert main(["predict", "checkpoint=a/model.ckpt", "output=a.parquet", *QUIET]) == 0
    assert pyarrow.parquet.read_table("a.parquet")["score"].null_count == 0
    assert main(["train", "resume=a/last.ckpt", "trainer.max_epochs=2", *QUIET]) == 0
    capfd.readouterr()
    assert main(["predict", "checkpoint=b/model.ckpt", "output=b.parquet", *QUIET]) == 2
    text = said(capfd)
    assert "names my_lens_net.body, which is not a class" in text
    assert "add it to the command line: model.body._target_=my_lens_net.body" in text
    assert main(["predict", "checkpoint=b/model.ckpt", by_function[0], "output=b.parquet", *QUIET]) == 0
    (elsewhere / "deeper").mkdir()
    monkeypatch.chdir(elsewhere / "deeper")
    monkeypatch.delitem(sys.modules, "my_lens_net")
    assert main(["predict", "checkpoint=../a/model.ckpt", *QUIET]) == 2
    assert "my_lens_net.Net, which cannot be imported here" in (text := said(capfd))
    assert f"run the command in {elsewhere}" in text


def test_where_a_resumed_training_writes(project: Project, elsewhere: Path) -> None:
    inner = project.folder / "runs" / "a" / "checkpoints" / "best.ckpt"
    inner.parent.mkdir(exist_ok=True)
    inner.touch()
    run = f"output={project.folder / 'runs' / 'a'}"
    assert with_run_folder([f"resume={project.checkpoint}", "x=1"]) == [f"resume={project.checkpoint}", "x=1", run]
    assert with_run_folder([f"resume={inner}"])[1:] == [run]
    (elsewhere / "alone.ckpt").touch()
    for arguments in (["resume=alone.ckpt"], ["resume=auto"], ["resume=null"], [f"resume={inner}", "output=o"], ["-m"]):
        assert with_run_folder(arguments) == arguments


def test_what_is_recorded_of_a_configuration(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t")
    (elsewhere / "sky").mkdir()
    cfg = OmegaConf.create(
        {
            "seed": 3,
            "output": "out",
            "resume": "x.ckpt",
            "key": "${oc.env:MY_TOKEN}",
            "simulation": {"config": {"bands": "gri"}},
            "data": {"repo": "sky", "catalog": "https://me:pw@host/t.csv?sig=1", "bands": "${simulation.config.bands}"},
            "model": {"seed": "${seed}", "hub": {"api_key": "s3cr3t", "again": "${key}"}, "free": "???"},
            "callbacks": {"last": {"path": "${output}/last.ckpt", "list": ["${seed}", 2]}},
        }
    )
    found = plain_configuration(cfg)
    assert found == {
        "version": 1,
        "folder": str(elsewhere),
        "seed": 3,
        "key": "${oc.env:MY_TOKEN}",
        "data": {"repo": str(elsewhere / "sky"), "catalog": "https://host/t.csv", "bands": "gri"},
        "model": {"seed": 3, "hub": {"api_key": "???", "again": "${key}"}, "free": "???"},
        "callbacks": {"last": {"path": "${output}/last.ckpt", "list": [3, 2]}},
    }
    assert "s3cr3t" not in json.dumps(found)


@pytest.mark.slow
def test_a_sweep_with_jobs_that_fail(project: Project, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Foreseen or not, the others go on, and the table has all."""
    settings = ["data=dp2", f"data.repo={project.folder / 'sky'}", f"data.catalog={project.folder / 'mine.csv'}"]
    settings += ["data.columns=[is_lens]", "model.label=is_lens", "data.bands=irg", "data.size=32", "picture=false"]
    settings += ["+trainer.limit_train_batches=1", "trainer.max_epochs=1", "data.normalisation.sample=10"]
    swept = ["data.sampling.shuffle_width=0,4", "model.network.dropout=0.1,7"]
    assert main(["train", "-m", *settings, *swept, "output=s"]) != 0
    rows = pyarrow.csv.read_csv("s/sweep.csv").to_pylist()
    assert [row["state"] for row in rows] == ["done", "failed", "failed", "failed"]
    assert np.isfinite(rows[0]["val_auc"])
    reasons = {row["job"]: row["reason"] for row in rows[1:]}
    assert "shuffle_width must be at least 1, got 0" in reasons[0]
    assert "dropout" in reasons[3]
    text = said(capfd)
    assert "Sweep: s/sweep.csv" in text
    assert "job 0 failed: ConfigurationError: shuffle_width must be at least 1, got 0" in text
