"""The function behind `train`: from a configuration to a checkpoint, figures and a picture."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from matplotlib.image import imread

from lsstcutouts.app.training import TrainingResult, train
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.testing import SimulationConfig

from ..support.repositories import simulated_copy

# What Lightning says about a run as short as a test's.
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


def run(folder: Path, *overrides: str) -> TrainingResult:
    with initialize_config_module("lsstcutouts.configs", version_base="1.3"):
        settings = [
            f"output='{folder / 'out'}'",
            f"simulation.root='{folder / 'sky'}'",
            "simulation.config.cells=2",
            "simulation.config.cell=64",
            "simulation.config.targets=60",
            "simulation.config.bands=gri",
            "data.size=32",
            "data.batch_size=16",
            "data.cache_bytes=100 MB",
            "trainer.max_epochs=2",
            "trainer.logger=false",
        ]
        return train(compose("train", overrides=[*settings, *overrides]))


def test_a_training_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "with = signs (and spaces)"
    result = run(folder)
    assert (folder / "sky" / "butler.yaml").exists()
    assert 0 <= result.metrics["val_auc"] <= 1
    assert result.epochs == 2
    assert result.cutouts_per_second > 0
    assert 0 < result.hit_rate <= 1
    assert 0 <= result.waiting <= 1
    assert set(result.bands_missing) == set("gri")
    assert json.loads((folder / "out" / "metrics.json").read_text()) == json.loads(json.dumps(result.as_dict()))
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["train"]["outcomes"] == {"delivered": result.targets}
    picture = imread(result.picture)
    assert picture.shape[1] > 500
    shown = capsys.readouterr().out
    for words in ("val auc", "cutouts/s", "cache hit rate", "without a band", "picture"):
        assert words in shown

    state = torch.load(result.checkpoint, weights_only=True)
    assert state["CutoutDataModule"]["train"]["epoch"] == 1
    model = LensClassifier(LensFinder("gri"))
    model.load_state_dict(state["state_dict"])

    # It goes on for as long as one asks for more.
    longer = run(folder, f"resume='{folder / 'out' / 'last.ckpt'}'", "trainer.max_epochs=3", "picture=false")
    assert longer.epochs == 3
    with pytest.raises(ConfigurationError, match=r"already has 3 epochs; increase trainer\.max_epochs"):
        run(folder, f"resume='{longer.checkpoint}'", "trainer.max_epochs=3")
    with pytest.raises(ConfigurationError, match="this file does not exist"):
        run(folder, "resume=nowhere.ckpt")

    # A second call finds the repository and says the same.
    capsys.readouterr()
    again = run(folder, "json=true", "picture=false")
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"] == dict(again.metrics) == dict(result.metrics)
    assert again.picture is None


def test_a_sky_made_otherwise_is_not_taken_for_the_asked_one(tmp_path: Path) -> None:
    simulated_copy(tmp_path / "sky", SimulationConfig(cells=2, cell=64, targets=50, bands="gri"))
    with pytest.raises(ConfigurationError, match=r"other values of targets.*simulation\.root"):
        run(tmp_path)


def test_the_network_takes_any_bands() -> None:
    for bands, channels in (("ugrizy", 6), (["g", "r"], 2), (1, 1)):
        network = LensFinder(bands).eval()
        assert network(torch.zeros(3, channels, 40, 52)).shape == (3,)


def test_the_table_says_what_was_left_out() -> None:
    result = TrainingResult(
        metrics={}, epochs=1, targets=10, cutouts_per_second=1.0, waiting=0.0, hit_rate=1.0, bands_missing={},
        not_delivered=0, left_out={"train": 2, "val": 0}, shared={"train": 51, "val": 0}, checkpoint="a", picture=None,
    )  # fmt: skip
    rows = dict(zip(*(column.cells for column in result.table().columns), strict=True))
    assert rows["targets left out"] == "train: 51 sharing pixels with another split; train: 2 by a policy"
    rows = dict(zip(*(c.cells for c in replace(result, left_out={}, shared={}).table().columns), strict=True))
    assert rows["targets left out"] == "none"
