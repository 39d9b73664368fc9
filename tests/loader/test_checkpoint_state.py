"""A checkpoint knows what it was trained on: in Python, with and without Lightning's trainer."""

import fractions
import io
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, ResumeError, StatisticsError
from lsstcutouts.loader.checkpoint_state import absolute_path, data_state, plain_values, public_values, read_checkpoint
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.resume import resumed
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.order.schedule import Schedule
from lsstcutouts.order.world import Position
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch, Compose, Lupton, NoiseAsinh, RandomD4
from lsstcutouts.transforms.statistics import Statistics

from .test_module import Watcher, data_of, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


class Small(LensClassifier):
    """Made without arguments, so that a checkpoint alone is enough for it."""

    def __init__(self) -> None:
        super().__init__(LensFinder("gri", widths=(4,)))


class Plain(L.LightningModule):
    """A user's own, which knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.mean(dim=(2, 3))).squeeze(1)

    def predict_step(self, batch: Any, _: int) -> torch.Tensor:
        return self(batch["image"])


@dataclass
class Trained:
    """One training, and where it left its checkpoint."""

    path: Path
    data: CutoutDataModule
    state: dict[str, Any]


@pytest.fixture(scope="module")
def trained(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = data_of(dp2_repo, normalisation=NoiseAsinh(2.0, sample=10), augmentations=RandomD4(seed=3))
    trainer = trainer_of(folder, max_epochs=1, limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(Small(), data)
    trainer.save_checkpoint(folder / "model.ckpt")
    state = torch.load(folder / "model.ckpt", weights_only=True)["CutoutDataModule"]
    return Trained(folder / "model.ckpt", data, state)


def same(repo: SimulatedRepository, **changes: Any) -> CutoutDataModule:
    return data_of(repo, **{"normalisation": NoiseAsinh(2.0, sample=10), **changes})


def test_the_state_has_every_setting_as_plain_values(trained: Trained, dp2_repo: SimulatedRepository) -> None:
    settings = trained.state["data"]
    assert settings == plain_values(settings)
    expected = {
        "repo": str(dp2_repo.root),
        "collections": "dp2",
        "catalog": str(dp2_repo.truth),
        "bands": ["g", "r", "i"],
        "size": [24, 24],
        "pixels": [24, 24],
        "planes": ["image"],
        "columns": ["label"],
        "plans": [trained.data.plan.fingerprint()],
    }
    assert {name: settings[name] for name in expected} == expected
    assert settings["read"]["flux_unit"] == "nJy"
    assert settings["read"]["missing_band"] == "zero"
    assert settings["splits"]["shares"] == {"train": 0.5, "val": 0.25, "test": 0.25}
    assert settings["pixel_scale"] == pytest.approx([0.2, 0.2], abs=1e-4)
    assert settings["normalisation"]["_target_"] == "lsstcutouts.transforms.NoiseAsinh"
    assert settings["normalisation"]["softening"] == 2.0
    assert settings["augmentations"] == {"_target_": "lsstcutouts.transforms.RandomD4", "seed": 3}
    assert data_state({"epoch": 3, "MyOwnDataModule": trained.state}) == trained.state
    assert data_state({"state_dict": {}, "loops": {"data": {}}}) is None


def test_a_data_module_from_a_checkpoint_gives_the_same_tensors(
    trained: Trained, dp2_repo: SimulatedRepository
) -> None:
    """Of another catalog too, by the statistics of the training; and without reading one pixel to fit any."""
    other = Catalog.from_any(dp2_repo.truth)[5:25]
    data = CutoutDataModule.load_from_checkpoint(trained.path, catalog={"predict": other}, columns=(), batch_size=7)
    data.setup("predict")
    assert data.cache_info().misses == 0
    assert data.statistics == trained.data.statistics
    assert isinstance(data.augmentations, RandomD4)
    plan, _ = trained.data.splits["predict"]
    sorter = np.argsort(plan.object_id)
    for batch in data.predict_dataloader():
        rows = sorter[np.searchsorted(plan.object_id, batch["object_id"].numpy(), sorter=sorter)]
        reference = trained.data.transform(_read(trained.data, rows))
        torch.testing.assert_close(data.transform(batch)["image"], reference["image"], rtol=0, atol=0)
    whole = CutoutDataModule.load_from_checkpoint(trained.path)
    assert (whole.repo, whole.catalog, whole.columns) == (str(dp2_repo.root), str(dp2_repo.truth), ("label",))


def _read(data: CutoutDataModule, rows: np.ndarray) -> dict[str, Any]:
    plan, _ = data.splits["predict"]
    batch = CutoutReader(plan, ReaderOptions.of(data.read, seed=data.seed), cache=data.cache).read(rows)
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in batch.items()}


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "order of bands": ({"bands": "irg"}, r"bands \(in this order\): \[g, r, i\] in the training, \[i, r, g\] here"),
    "bands": ({"bands": "gr"}, r"\[g, r, i\] in the training, \[g, r\] here"),
    "size": ({"size": 20}, r"size in pixels .*: \[24, 24\] in the training, \[20, 20\] here"),
    "planes": ({"planes": ("image", "valid")}, r"planes: \[image\] in the training, \[image, valid\] here"),
    "unit": ({"read": ReadOptions(flux_unit="native")}, "flux_unit: nJy in the training, native here"),
    "missing": ({"read": ReadOptions(missing_band="nan")}, "missing_band: zero in the training, nan here"),
    "fill": ({"read": ReadOptions(fill="noise")}, r"fill: 0\.0 in the training, noise here"),
    "normalisation": ({"normalisation": Lupton()}, r"NoiseAsinh\(softening=2\.0.* in the training, Lupton\("),
    "its argument": ({"normalisation": NoiseAsinh()}, r"softening=2\.0.* in the training, .*softening=1\.0"),
    "none": ({"normalisation": None}, r"normalisation: NoiseAsinh\(.* in the training, none here"),
    "transforms": (
        {"transforms": AsinhStretch(3.0)},
        r"transforms: none in the training, AsinhStretch\(scale=\[3\.0\]",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_tensors_than_those_of_the_training_are_refused(
    trained: Trained, dp2_repo: SimulatedRepository, name: str
) -> None:
    changes, words = OTHER[name]
    with pytest.raises(ConfigurationError, match=words):
        same(dp2_repo, **changes).load_state_dict(trained.state)
    if not isinstance(changes.get("normalisation", ""), nn.Module | None):
        with pytest.raises(ConfigurationError, match=words):
            CutoutDataModule.load_from_checkpoint(trained.path, **changes)


def test_what_only_says_how_or_what_is_read_may_be_another(trained: Trained, dp2_repo: SimulatedRepository) -> None:
    changes = {"batch_size": 3, "threads": 1, "num_workers": 0, "seed": 9, "columns": ()}
    changes["read"] = ReadOptions(on_read_error="skip")
    same(dp2_repo, **changes, size=("24 px", 24), planes=["image"], bands=["g", "r", "i"]).load_state_dict(
        trained.state
    )


def test_another_pixel_scale_is_noticed_once_there_is_a_plan(trained: Trained, dp2_repo: SimulatedRepository) -> None:
    hsc = {**trained.state, "data": {**trained.state["data"], "pixel_scale": [0.168, 0.168]}}
    data = same(dp2_repo)
    data.load_state_dict(hsc)
    with pytest.raises(
        ConfigurationError, match=r"pixel scale .*: \[0\.168, 0\.168\] in the training, \[0\.2, 0\.2\] here"
    ):
        data.setup()
    after = same(dp2_repo)
    after.setup()
    with pytest.raises(ConfigurationError, match="pixel scale"):
        after.load_state_dict(hsc)


@pytest.mark.parametrize("run", ["predict", "fit", "validate"])
def test_the_trainer_refuses_too(run: str, trained: Trained, dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_epochs=2)
    with pytest.raises(ConfigurationError, match=r"\[g, r, i\] in the training, \[i, r, g\] here"):
        getattr(trainer, run)(Small(), same(dp2_repo, bands="irg"), ckpt_path=str(trained.path), weights_only=True)


def test_a_network_that_was_loaded_brings_its_statistics(
    trained: Trained, dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    """`load_from_checkpoint` and then a prediction that is given no checkpoint."""
    few = Catalog.from_any(dp2_repo.truth, columns=("label",))[:10]
    model = Small.load_from_checkpoint(trained.path, weights_only=True)
    data = same(dp2_repo, catalog=few)
    found = torch.cat([p["score"] for p in trainer_of(tmp_path).predict(model, data)])
    assert data.statistics == trained.data.statistics
    by_checkpoint = trainer_of(tmp_path).predict(
        Small(), same(dp2_repo, catalog=few), ckpt_path=str(trained.path), weights_only=True
    )
    assert torch.equal(found, torch.cat([p["score"] for p in by_checkpoint]))
    for changes in (
        {"bands": "irg"},
        {"size": 20},
        {"normalisation": Lupton()},
        {"read": ReadOptions(flux_unit="native")},
    ):
        with pytest.raises(ConfigurationError, match="these settings differ from the training of the network"):
            trainer_of(tmp_path).predict(model, same(dp2_repo, catalog=few, **changes))
    # A new training of it may be on anything, and is what the network knows from then on.
    new = same(dp2_repo, bands="irg", normalisation=Lupton())
    trainer_of(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(model, new)
    trainer_of(tmp_path, limit_predict_batches=1).predict(model, new)


def test_a_prediction_fits_nothing_to_its_own_targets(
    trained: Trained, dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    model = Plain()
    with pytest.raises(ConfigurationError, match=r"no statistics yet.*ckpt_path="):
        trainer_of(tmp_path).predict(model, same(dp2_repo))
    assert not list(tmp_path.rglob("statistics-*"))
    data = CutoutDataModule.load_from_checkpoint(trained.path, columns=())
    assert len(trainer_of(tmp_path, limit_predict_batches=1).predict(model, data)) == 1


def test_a_network_of_ones_own_and_a_copy_of_the_repository(
    dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository, tmp_path: Path
) -> None:
    """A training goes on with the same files elsewhere, and with no others."""
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(Watcher(), data_of(dp2_repo))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    copy = replace(dp2_repo, root=tmp_path / "copy")
    shutil.copytree(dp2_repo.root, copy.root)
    again: dict[str, Any] = {"ckpt_path": str(tmp_path / "own.ckpt"), "weights_only": True}
    settings = {"max_epochs": 2, "limit_train_batches": 1, "limit_val_batches": 0}
    model = Watcher()
    trainer_of(tmp_path, **settings).fit(model, data_of(copy), **again)
    assert len(model.seen["train"]) == 1
    with pytest.raises(ResumeError, match=rf"repo: {dp2_repo.root} in the checkpoint, {dp1_repo.root} now"):
        trainer_of(tmp_path, **settings).fit(Watcher(), data_of(dp1_repo), **again)
    trainer_of(tmp_path, limit_predict_batches=1).predict(Watcher(), data_of(dp1_repo), **again)


def test_statistics_of_other_pixels_are_refused(
    dp2_repo: SimulatedRepository, trained: Trained, tmp_path: Path
) -> None:
    given = trained.data.statistics
    assert given is not None
    given.save(tmp_path / "statistics.yaml")
    for changes, words in (
        ({"size": 20}, "24 x 24 pixels, but these have 20 x 20"),
        ({"read": ReadOptions(flux_unit="native")}, "in nJy, but the pixels are in native"),
        ({"normalisation": NoiseAsinh(statistics=given.ordered("gr"))}, "bands g,r but not i"),
    ):
        arguments = {"normalisation": NoiseAsinh(statistics=str(tmp_path / "statistics.yaml")), **changes}
        with pytest.raises(StatisticsError, match=words):
            data_of(dp2_repo, **arguments).setup()
    hsc = replace(given, pixel_scale=(0.168, 0.168))
    with pytest.raises(StatisticsError, match=r"0\.168 x 0\.168 arcsec, but these have 0\.2 x 0\.2"):
        data_of(dp2_repo, normalisation=NoiseAsinh(statistics=hsc)).setup()
    # By name, whatever the order; a file of version 1 does not say the scale.
    turned = data_of(dp2_repo, bands="ig", normalisation=NoiseAsinh(statistics=given))
    turned.setup()
    assert list(turned.statistics.bands) == ["i", "g"]
    old = {name: value for name, value in given.as_dict().items() if name != "pixel_scale"} | {"version": 1}
    data_of(dp2_repo, normalisation=NoiseAsinh(statistics=Statistics.from_dict(old))).setup()


def test_a_normalisation_fitted_by_hand_to_another_order(dp2_repo: SimulatedRepository, trained: Trained) -> None:
    turned = NoiseAsinh().fit(trained.data.statistics.ordered("irg"))
    with pytest.raises(StatisticsError, match=r"bands i,r,g, in this order, but the data module has g,r,i"):
        data_of(dp2_repo, normalisation=turned).setup()


class Callable:
    def __call__(self, batch: Any) -> Any:
        return batch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"augmentations": RandomD4}, r"augmentations must be a torch\.nn\.Module.*the class RandomD4; give an object"),
        ({"transforms": lambda batch: batch}, r"transforms must be .*a function; write a class with forward"),
        ({"transforms": Callable()}, "a function"),
        ({"normalisation": "noise_asinh"}, r"normalisation must be .*'noise_asinh'; give an object such as"),
        ({"augmentations": [RandomD4()]}, r"a list; give lsstcutouts\.transforms\.Compose"),
        ({"normalisation": 3}, "got 3"),
        ({"batch_size": "many"}, "batch_size must be an integer, got 'many'"),
        ({"num_workers": 1.5}, "num_workers must be an integer"),
        ({"threads": True}, "threads must be an integer"),
    ],
)
def test_wrong_kinds_of_arguments_are_named(
    arguments: Mapping[str, Any], words: str, dp2_repo: SimulatedRepository
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        data_of(dp2_repo, **arguments)


def test_wrong_kinds_elsewhere() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Compose needs torch.nn.Module objects.*create an object: RandomD4\(\.\.\.\)"
    ):
        Compose([RandomD4])
    with pytest.raises(ConfigurationError, match="lanes must be at most"):
        Schedule(100, 8, 1, 10**9)


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_early_stopping_without_a_validation(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data = data_of(dp2_repo, splits={"train": 1.0, "val": 0.0})
    trainer = trainer_of(tmp_path, callbacks=[EarlyStopping("val_loss")], max_epochs=1)
    with pytest.raises(ConfigurationError, match="EarlyStopping monitors 'val_loss', but there is no validation"):
        trainer.fit(Watcher(), data)
    watching_train = EarlyStopping("train_loss", check_on_train_epoch_end=True)

    class Logging(Watcher):
        def training_step(self, batch: Any, i: int) -> torch.Tensor:
            loss = super().training_step(batch, i)
            self.log("train_loss", loss)
            return loss

    trainer_of(tmp_path, callbacks=[watching_train], max_epochs=1, limit_train_batches=1).fit(Logging(), data)


def test_checkpoints_of_other_versions_and_damaged_ones() -> None:
    now = {"targets": "t", "rows": 10, "global_batch_size": 2, "lanes": 1, "seed": 0, "shuffle": "block"}
    now |= {"shuffle_width": 32, "sampling": ""}
    older = {name: value for name, value in now.items() if name != "sampling"}
    assert resumed(older, now, Position(0, 3), 5) == (1, Position(0, 3))
    for wrong in ({"rows": 10}, {**now, "lanes": "many"}, {}):
        with pytest.raises(ResumeError, match="damaged or of another version"):
            resumed(wrong, now, Position(0, 3), 5)


def test_files_that_are_no_checkpoints(trained: Trained, tmp_path: Path) -> None:
    whole = trained.path.read_bytes()
    checkpoint = torch.load(trained.path, weights_only=True)
    files: dict[str, tuple[Any, str]] = {
        "cut": (whole[: len(whole) // 2], "damaged, perhaps cut short"),
        "garbage": (random.Random(0).randbytes(3000), "is no checkpoint"),
        "text": (b"hello\n", "is no checkpoint"),
        "empty": (b"", "is no checkpoint"),
        "bare": (checkpoint["state_dict"], "bare weights of a network"),
        "list": ([1, 2], "no checkpoint of a training"),
        "mapping": ({"model": 1}, "no checkpoint of a training"),
        "torch": ({"state_dict": {}, "epoch": 1}, "not written by Lightning"),
        "object": ({"state_dict": {}, "x": fractions.Fraction(1, 2)}, r"objects of the class fractions\.Fraction"),
    }
    for name, (content, words) in files.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ConfigurationError, match=rf"resume='.*{name}\.ckpt'.*{words}"):
            read_checkpoint(path, "resume")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError, match="this file does not exist"):
            read_checkpoint(path)
    legacy = tmp_path / "legacy.ckpt"
    torch.save(checkpoint, legacy, _use_new_zipfile_serialization=False)
    assert read_checkpoint(legacy)["epoch"] == read_checkpoint(trained.path)["epoch"]
    del checkpoint["CutoutDataModule"]["data"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(ConfigurationError, match="has no description of its training data"):
        CutoutDataModule.load_from_checkpoint(tmp_path / "old.ckpt")


def test_what_cannot_be_made_again_must_be_given(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self._factor = by

        def forward(self, batch: Any) -> Any:
            return {**batch, "image": batch["image"] * self._factor}

    data = data_of(dp2_repo, transforms=Scaled(2.0), catalog=Catalog.from_any(dp2_repo.truth, columns=("label",)))
    data.setup()
    state = {"state_dict": {}, "pytorch-lightning_version": "2", "CutoutDataModule": data.state_dict()}
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(
        ConfigurationError, match=r"transforms, .*Scaled, cannot be created from it.*has no attributes by"
    ):
        CutoutDataModule.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        ConfigurationError, match="was a table in memory, which is not in the checkpoint; give catalog="
    ):
        CutoutDataModule.load_from_checkpoint(tmp_path / "a.ckpt", transforms=Scaled(2.0))
    CutoutDataModule.load_from_checkpoint(tmp_path / "a.ckpt", transforms=Scaled(2.0), catalog=str(dp2_repo.truth))
    state["CutoutDataModule"]["data"]["transforms"] = {"_target_": "os.system", "command": "true"}
    torch.save(state, tmp_path / "evil.ckpt")
    with pytest.raises(ConfigurationError, match=r"os\.system, cannot be created from it.*not a torch\.nn\.Module"):
        CutoutDataModule.load_from_checkpoint(tmp_path / "evil.ckpt", catalog=str(dp2_repo.truth))


def test_no_secret_gets_into_a_checkpoint(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    signed = "https://user:hunter2@store.org/my/cat.parquet?X-Amz-Signature=s3cr3t&Expires=1#f4agment"
    data = data_of(dp2_repo, repo="https://bob:hunter2@butler.org/api", catalog=signed)
    data.configuration = public_values({"model": {"hub_token": "s3cr3t", "num_tokens": 5, "pad": "a token"}})
    state = data.state_dict()
    assert state["data"]["repo"] == "https://butler.org/api"
    assert state["data"]["catalog"] == "https://store.org/my/cat.parquet"
    assert state["run"]["model"] == {"hub_token": "???", "num_tokens": 5, "pad": "a token"}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for secret in (b"hunter2", b"s3cr3t", b"f4agment"):
        assert secret not in buffer.getvalue()
    assert public_values({"password": "${oc.env:PW}"}) == {"password": "${oc.env:PW}"}


def test_paths_are_absolute_and_labels_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").touch()
    monkeypatch.chdir(tmp_path)
    given = {"train": "a.csv", "val": Path("a.csv"), "label": "dp2", "url": "s3://a.csv", "many": ["a.csv"], "n": 3}
    here = str(tmp_path / "a.csv")
    assert absolute_path(given) == {**given, "train": here, "val": here, "many": [here]}


def test_plain_values() -> None:
    given = {"a": (1, np.int64(2), np.float32(0.5)), 3: Path("x"), "t": None, "o": object, "s": np.str_("y")}
    found = plain_values(given)
    assert found == {"a": [1, 2, 0.5], "3": "x", "t": None, "o": "<builtins.type>", "s": "y"}
    assert [type(one) for one in found["a"]] == [int, int, float]
