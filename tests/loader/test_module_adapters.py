"""Adapters to foundation models as the transforms of a data module: in every split, in checkpoints and predictions."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lsstcutouts import LsstDataFetcher
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import Adapter, RandomD4, ToAion, ToAstroPT, ToZoobot

from .test_module import data_of, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")

ADAPTERS = {
    "aion": lambda: ToAion("gri", use="gri", size=24),
    "zoobot": lambda: ToZoobot("gri", field=4.8, size=32),
    "zoobot-whole": lambda: ToZoobot("gri", field=None, size=32, dtype="float32"),
    "astropt": lambda: ToAstroPT("gri", size=32, pixel_scale=0.14, patch_size=8),
}


class Probe(L.LightningModule):
    """Pools the pixels of three channels, and records what each split delivers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen: dict[str, list[dict[str, Any]]] = {}

    def forward(self, batch: dict[str, Any], stage: str) -> torch.Tensor:
        self.seen.setdefault(stage, []).append(batch)
        return self.layer(batch["image"].to(self.layer.weight.dtype).mean((2, 3)) / 255).squeeze(1)

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self(batch, "train"), batch["label"].float())

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self(batch, "val")

    def test_step(self, batch: dict[str, Any], _: int) -> None:  # noqa: PT019 - Lightning's hook, not a test
        self(batch, "test")

    def predict_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        return self(batch, "predict")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def module_of(repo: SimulatedRepository, adapter: Adapter, **changes: Any) -> CutoutDataModule:
    return data_of(repo, transforms=adapter, planes=("image", "valid"), **changes)


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_every_split_and_what_a_checkpoint_restores(
    dp2_repo: SimulatedRepository, tmp_path: Path, make, precision: str
) -> None:
    data, model = module_of(dp2_repo, make(), augmentations=RandomD4(seed=1)), Probe()
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=2, precision=precision)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert model.seen.keys() == {"train", "val", "test"}
    kinds = {(batch["image"].dtype, tuple(batch["image"].shape[1:])) for one in model.seen.values() for batch in one}
    assert len(kinds) == 1
    restored = CutoutDataModule.load_from_checkpoint(
        tmp_path / "model.ckpt", catalog={"predict": str(dp2_repo.truth)}, columns=()
    )
    assert type(restored.transforms) is type(data.transforms)
    trainer_of(tmp_path, precision=precision).predict(model, restored)
    restored.setup("predict")
    (batch, *_), (plain, *_) = (list(restored.predict_dataloader()) for _ in range(2))
    wanted = make()(plain)
    assert torch.equal(restored.transform(batch)["image"], wanted["image"])
    image = model.seen["predict"][0]["image"]
    assert torch.equal(image, wanted["image"].to(image.dtype))


def test_other_settings_than_those_of_the_training_are_an_error(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(Probe(), module_of(dp2_repo, ADAPTERS["zoobot"]()))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    other = module_of(dp2_repo, ToZoobot("gri", field=4.0, size=32))
    with pytest.raises(ConfigurationError, match=r"transforms: ToZoobot\(.*field=4.8.* in the training, .*field=4.0"):
        trainer_of(tmp_path).predict(Probe(), other, ckpt_path=tmp_path / "model.ckpt", weights_only=True)


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_the_arrays_of_a_fetcher(dp2_repo: SimulatedRepository, make) -> None:
    planes = ("image", "valid", "variance", "psf")
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24, planes=planes) as fetcher:
        arrays = fetcher.fetch_plan(fetcher.plan(dp2_repo.truth), range(9))
    batch = {name: torch.from_numpy(value) for name, value in arrays.items()}
    adapted = make()(batch)
    data = module_of(dp2_repo, make(), catalog={"predict": str(dp2_repo.truth)}, columns=(), batch_size=80)
    data.setup("predict")
    (delivered,) = data.predict_dataloader()
    rows = {int(name): i for i, name in enumerate(delivered["object_id"])}
    order = [rows[int(name)] for name in batch["object_id"]]
    torch.testing.assert_close(adapted["image"], data.transform(delivered)["image"][order], rtol=1e-4, atol=1e-3)
