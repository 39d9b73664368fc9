"""One's own data, task and network through the command: trainings, Ctrl-C, and errors that a training meets."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.image import imread

from lsstcutouts.app.cli import main
from lsstcutouts.testing import SimulationConfig

from ..support.repositories import simulated_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:No .* samples in targets:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

NETS = '''
import signal
from pathlib import Path
import lightning as L
import torch
from torch import nn

class Net(L.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))
    def forward(self, image):
        return self.body(image)
    def loss(self, batch):
        return self.body(batch["image"]).square().mean()
    def training_step(self, batch, i):
        return self.loss(batch)
    def validation_step(self, batch, i):
        self.log("val_loss", self.loss(batch), batch_size=len(batch["image"]))
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

class Tuple(Net):
    def forward(self, image):
        return self.body(image), image.mean()

class Mapping(Net):
    def forward(self, image):
        return {"a": self.body(image), "b": image}

class Columns(Net):
    def forward(self, image):
        return self.body(image).expand(-1, 3)

class NoPrediction(Net):
    def predict_step(self, batch, i):
        raise RuntimeError("no prediction here")

class Wrong(Net):
    def training_step(self, batch, i):
        return self.loss(batch).nothing

class Six(Net):
    def __init__(self):
        super().__init__()
        self.body[0] = nn.Conv2d(6, 4, 3)

class Interrupted(Net):
    """Ctrl-C comes in the epoch whose number a file holds, as from a keyboard."""
    def on_train_batch_end(self, *_):
        if self.current_epoch == int(Path("stop_at").read_text()):
            signal.raise_signal(signal.SIGINT)

class Sized(Net):
    def __init__(self, size):
        super().__init__()

class Plain(nn.Module):
    def __init__(self, bands):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(len(bands), 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    def forward(self, image):
        return self.body(image)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a repository, a CSV file of its targets with labels of many kinds, and modules."""
    sys.modules.pop("own_nets", None)  # of another folder, where this process was here before
    folder = tmp_path_factory.mktemp("own")
    simulated_copy(folder / "sky", SimulationConfig(cells=2, cell=64, targets=60, bands="gri"))
    table = pq.read_table(folder / "sky" / "truth.parquet").select(["object_id", "ra", "dec", "label"])
    rng = np.random.default_rng(0)
    count = len(table)
    z = rng.uniform(0, 2, count)
    more = {
        "z": z,
        "hole": np.where(np.arange(count) == 3, np.nan, z),
        "sign": table["label"].to_numpy() * 2 - 1,
        "kind": rng.choice(["star", "galaxy", "qso"], count),
        "n": rng.choice([0, 2, 7], count),
        "rare": np.where(np.arange(count) < 50, rng.choice([1, 2], count), 9),
    }
    for name, values in more.items():
        table = table.append_column(name, pyarrow.array(values))
    pyarrow.csv.write_csv(table, folder / "my.csv")
    pyarrow.csv.write_csv(table.drop_columns(["label"]), folder / "bare.csv")
    (folder / "own_nets.py").write_text(NETS)
    torch.save({"a.weight": torch.zeros(3)}, folder / "plain.pt")
    (folder / "garbage.ckpt").write_bytes(b"no checkpoint" * 40)
    return folder


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in the folder and return the start of a short training."""
    monkeypatch.chdir(folder)
    where = ["data.repo=sky", "data.collections=dp2", "data.catalog=my.csv", "data.bands=gri", "data.size=24"]
    small = ["data.batch_size=16", "data.cache_bytes=50 MB", "data.threads=1", "trainer.logger=false"]
    return ["train", *where, *small, "trainer.max_epochs=1", "picture=false"]


SMALL_NETWORK = "model.network.widths=[4]"


def metrics(output: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(Path(output, "metrics.json").read_text())["metrics"]
    return found


def test_three_tasks_and_their_predictions(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    small = [*own, SMALL_NETWORK, "picture=true"]
    assert main([*small, "output=out/binary", "metric=val_auc"]) == 0
    assert {"val_auc", "val_accuracy", "val_loss"} <= set(metrics("out/binary"))
    assert main([*small, "output=out/kind", "task=classes", "label=kind"]) == 0
    assert {"val_accuracy", "val_loss"} <= set(metrics("out/kind"))
    # The rows of a class that select leaves out do not make a class.
    assert main([*small, "output=out/n", "task=classes", "label=rare", "data.splits.select=rare < 5"]) == 0
    assert main([*small, "output=out/z", "task=regression", "label=z"]) == 0
    assert {"val_mae", "val_r2", "val_loss"} <= set(metrics("out/z"))
    assert "demo" not in {path.name for path in Path().iterdir()}
    for name in ("binary", "kind", "n", "z"):
        assert imread(Path("out", name, "mosaic.png")).shape[1] > 500

    def predicted(name: str) -> pyarrow.Table:
        arguments = ["predict", f"checkpoint=out/{name}/model.ckpt", f"output=out/{name}.parquet", "data.threads=1"]
        assert main(arguments) == 0, capsys.readouterr().err
        return pq.read_table(f"out/{name}.parquet")

    kinds, numbers, z = predicted("kind"), predicted("n"), predicted("z")
    own_columns = [name for name in kinds.column_names if "score" in name or name == "predicted"]
    assert own_columns == ["predicted", "score", "score_galaxy", "score_qso", "score_star"]
    best = np.argmax([kinds[f"score_{k}"].to_numpy() for k in ("galaxy", "qso", "star")], axis=0)
    delivered = np.array([one == "delivered" for one in kinds["outcome"].to_pylist()])
    assert delivered.sum() > 40
    named = np.array(kinds["predicted"].to_pylist(), object)
    assert (named[delivered] == np.array(["galaxy", "qso", "star"], object)[best[delivered]]).all()
    assert [name for name in numbers.column_names if name.startswith("score_")] == ["score_1", "score_2"]
    values = z["predicted"].to_numpy()[delivered]
    assert 0 < values.mean() < 2
    assert "score" not in z.column_names


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["label=z"], "task=binary needs 0 and 1 only; use task=regression"),
        (["label=sign"], "contains -1, but task=binary needs 0 and 1 only; use task=classes"),
        (["label=kind"], "contains strings ('galaxy', 'qso', 'star'); task=binary needs 0 and 1"),
        (["label=hole", "task=regression"], "1 of 60 labels in column 'hole' are NaN"),
        (["label=z", "task=classes"], "use task=regression"),
        (["label=kind", "task=regression"], "task=regression needs numbers"),
        (["label=n", "task=classes", "model.classes=[0,2]"], "contains 7, which is not one of the classes (0, 2)"),
        (["model.network.bands=ugrizy"], "are (16, 3, 24, 24) (targets, bands gri, y, x)"),
        (
            ["model=own_nets.Net", "model.depth=3"],
            "model.depth: own_nets.Net has no argument 'depth'; its arguments are width",
        ),
        (["model=own_nets.Wrong"], "in own_nets.py, line 41, training_step; the images of a batch are (16, 3, 24, 24)"),
        (["model=own_nets.Six"], "to have 6 channels, but got 3 channels instead, in own_nets.py"),
        (["model=own_nets.Nett"], "own_nets has no 'Nett'; did you mean Net?"),
        (["model=own_nets.Sized"], "model cannot be created: TypeError: "),
        (["data.columns=[]"], "the batch has no column 'label'"),
        (["trainer=gpu"], "finds no GPU on this machine; use trainer=cpu"),
        (["resume=garbage.ckpt"], "is no checkpoint"),
        (["resume=plain.pt"], "holds the bare weights"),
        (["callbacks=[default,checkpoints]", "metric=val_f1"], "ModelCheckpoint(monitor='val_f1')"),
    ],
)
def test_mistakes_end_in_one_message(
    settings: list[str], words: str, own: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = [] if any(one.startswith("model") for one in settings) else [SMALL_NETWORK]
    given = [one for one in own if not one.startswith("trainer.max") or "trainer=gpu" not in settings]
    assert main([*given, *network, "output=out/wrong", *settings]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_a_mistake_in_a_module_of_another_folder(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main([*own, "output=out/far", "model=far_nets.Wrong"]) == 2
    assert f"in {tmp_path / 'far_nets.py'}, line 41, training_step" in capsys.readouterr().err


def test_a_catalog_without_the_label(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["task=classes"]):
        assert main([*own, "data.catalog=bare.csv", "output=out/bare", *more]) == 1
        assert "no column 'label'" in (shown := capsys.readouterr().err)
        assert "Set label= to the column to learn" in shown
    assert main([*own, "data.catalog=bare.csv", "output=out/bare", "model=own_nets.Net", "data.columns=[]"]) == 0


@pytest.mark.parametrize("name", ["Net", "Tuple", "Mapping", "Columns", "NoPrediction"])
def test_a_model_of_ones_own_trains_whatever_it_returns(
    name: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = list(sys.path)
    assert main([*own, f"output=out/{name}", f"model=own_nets.{name}", "picture=true"]) == 0, capsys.readouterr().err
    assert sys.path == path
    assert "val_loss" in metrics(f"out/{name}")
    assert imread(Path("out", name, "mosaic.png")).shape[1] > 500
    assert ("no prediction here" in Path("out", name, "train.log").read_text()) == (name == "NoPrediction")


def test_a_picture_that_cannot_be_written_ends_nothing(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/blocked/mosaic.png").mkdir(parents=True)
    assert main([*own, SMALL_NETWORK, "output=out/blocked", "picture=true"]) == 0
    assert "val_auc" in metrics("out/blocked")
    assert "no picture was written" in Path("out/blocked/train.log").read_text()
    assert "not written" in capsys.readouterr().out


def test_a_plain_network_of_ones_own(own: list[str]) -> None:
    assert main([*own, "output=out/plain", "model.network._target_=own_nets.Plain"]) == 0


def test_ctrl_c_says_what_was_kept(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def run(stop_at: int, *settings: str) -> tuple[int, str]:
        Path("stop_at").write_text(str(stop_at))
        status = main([*own, "trainer.max_epochs=3", "model=own_nets.Interrupted", *settings])
        return status, capsys.readouterr().err

    before = signal.getsignal(signal.SIGINT)
    status, shown = run(0, "output=out/stop")
    assert status == 130
    assert "interrupted: in epoch 1 of 3; no checkpoint was kept" in shown
    assert signal.getsignal(signal.SIGINT) is before
    status, shown = run(1, "output=out/stop")
    assert status == 130
    assert "interrupted: in epoch 2 of 3; kept: out/stop/last.ckpt. The same command with resume=auto resumes" in shown
    assert not Path("out/stop/metrics.json").exists()
    assert run(-1, "output=out/stop", "resume=auto")[0] == 0
    assert json.loads(Path("out/stop/metrics.json").read_text())["epochs"] == 3
    status, shown = run(2, "output=out/stop", "resume=out/stop/last.ckpt", "trainer.max_epochs=4", "callbacks=none")
    assert status == 0  # all of epoch 2 was done
    kept = ["callbacks=[default,checkpoints]", "metric=val_loss", "output=out/kept"]
    status, shown = run(0, *kept)
    assert status == 130
    assert "kept: out/kept/checkpoints/on_exception.ckpt" in shown
    assert run(-1, *kept, "trainer.max_epochs=1") == (0, "")  # a new training does not go on from it unasked
    assert json.loads(Path("out/kept/metrics.json").read_text())["epochs"] == 1
    assert not Path("out/kept/checkpoints/on_exception.ckpt").exists()
