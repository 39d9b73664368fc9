"""Trainings on a footprint: plans, splits, checkpoints, resumes, ranks and views."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lsstcutouts import Catalog, CutoutDataModule, Footprint, SplitOptions
from lsstcutouts.errors import ConfigurationError, ResumeError
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import NoiseAsinh, RandomD4, Views

from ..support.resuming import Saver, Watcher

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def data_of(repo: SimulatedRepository, catalog: object, /, **changes) -> CutoutDataModule:
    given = {"batch_size": 8, "threads": 1, "cache_bytes": "50 MB", "splits": {"train": 1.0}, **changes}
    return CutoutDataModule(str(repo.root), repo.collections, catalog, "gri", 16, **given)


@pytest.mark.parametrize(
    "catalog",
    [{"footprint": {"n": 60}}, Footprint(n=60), {"footprint": Footprint(n=60)}, Catalog.from_any(Footprint(n=60))],
    ids=["mapping", "object", "object in a mapping", "catalog"],
)
def test_every_form_trains_and_is_in_the_checkpoint(
    dp2_repo: SimulatedRepository, catalog: object, tmp_path: Path
) -> None:
    data = data_of(dp2_repo, catalog, normalisation=NoiseAsinh())
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, limit_val_batches=0, **QUIET)
    model = Watcher()
    trainer.fit(model, data)
    assert sorted(i for step in model.steps for i in step) == list(range(60))
    assert list((tmp_path / ".lsstcutouts").glob("plan-all-*.parquet"))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = CutoutDataModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert loaded.catalog == {"footprint": {"kind": "uniform", "n": 60}}
    loaded.setup()
    assert loaded.plan.fingerprint() == data.plan.fingerprint()
    assert loaded.statistics == data.statistics
    assert "n=60" in data._repr_html_()
    other = CutoutDataModule.load_from_checkpoint(tmp_path / "x.ckpt", catalog=Footprint("grid"))
    other.setup()
    assert len(other.plan) > 60


def test_a_training_resumes_at_the_next_batch(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    settings = {
        "max_epochs": 2,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        **QUIET,
        "default_root_dir": tmp_path,
    }
    whole, footprint = Watcher(), {"footprint": {"n": 50, "views": 2, "seed": 3}}
    L.Trainer(callbacks=[Saver(tmp_path)], **settings).fit(whole, data_of(dp2_repo, footprint))
    for name, seen in (("0 start", 0), ("0 after 4", 4), ("1 after 2", len(whole.seen) // 2 + 2)):
        model = Watcher()
        # The mapping and the object are the same request.
        data = data_of(dp2_repo, Footprint(n=50, views=2, seed=3))
        L.Trainer(**settings).fit(model, data, ckpt_path=str(tmp_path / f"{name}.ckpt"), weights_only=True)
        assert model.seen == whole.seen[seen:]
    data = data_of(dp2_repo, Footprint(n=50, views=2, seed=4))
    with pytest.raises(ResumeError, match=r"catalog: .*seed.* in the checkpoint"):
        L.Trainer(**settings).fit(Watcher(), data, ckpt_path=str(tmp_path / "0 after 4.ckpt"), weights_only=True)


def test_splits_share_no_pixel_and_views_stay_together(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, Footprint(n=80, views=2), splits={"train": 0.6, "val": 0.4}, columns=["position"])
    data.setup()
    plan = data.plan
    of_split = {
        name: set(plan.columns["position"][rows].tolist()) for name, (_, rows) in data.splits.items() if len(rows)
    }
    assert not of_split["train"] & of_split["val"]
    for name in ("train", "val"):
        counts = np.bincount(plan.columns["position"][data.splits[name][1]])
        assert set(counts.tolist()) <= {0, 2}
    first = data_of(dp2_repo, Footprint(n=80, views=2), splits=SplitOptions({"train": 1.0}, select="view == 0"))
    first.setup()
    assert len(first.splits["train"][1]) == 80


def test_a_split_may_have_its_own_footprint(dp2_repo: SimulatedRepository) -> None:
    catalogs = {"train": {"footprint": {"n": 40}}, "val": Footprint("grid", spacing=60), "predict": str(dp2_repo.truth)}
    data = data_of(dp2_repo, catalogs, splits=SplitOptions(leaks="warn"))
    data.setup()
    assert len(data.splits["train"][1]) == 40
    assert len(data.splits["val"][1]) > 4
    assert len(data.splits["predict"][1]) == 80


def test_the_views_of_a_position_neighbour_each_other(dp2_repo: SimulatedRepository) -> None:
    """In the order over the sky they follow one another, and in a shuffled one they are in one block."""
    data = data_of(dp2_repo, Footprint(n=40, views=2), splits={"val": 1.0}, columns=["position", "view"])
    data.setup()
    batches = list(data.val_dataloader())
    position = torch.cat([batch["position"] for batch in batches]).reshape(-1, 2)
    assert torch.equal(position[:, 0], position[:, 1])
    assert torch.cat([batch["view"] for batch in batches]).tolist() == [0, 1] * 40
    blocks = data.plan.blocks()
    assert all(len(set(blocks[data.plan.columns["position"] == n].tolist())) == 1 for n in range(40))


class Pairs(L.LightningModule):
    """Notes the images of each batch of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.images: list[torch.Tensor] = []

    def training_step(self, batch, _):
        self.images.append(batch["image"])
        one, other = batch["object_id"].chunk(2)
        assert torch.equal(one, other)
        return self.layer(batch["image"].mean(dim=(2, 3))).square().mean()

    def validation_step(self, batch, _) -> None:
        assert len(set(batch["object_id"].tolist())) == len(batch["object_id"])  # without augmentations, once

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_pairs_of_views_train_and_resume_exactly(dp2_repo: SimulatedRepository, tmp_path: Path, precision: str) -> None:
    settings = {"max_epochs": 2, "limit_val_batches": 0, **QUIET, "default_root_dir": tmp_path, "precision": precision}
    settings["num_sanity_val_steps"] = 0

    def data() -> CutoutDataModule:
        return data_of(dp2_repo, Footprint(n=20), augmentations=Views(RandomD4()), normalisation=NoiseAsinh())

    whole = Pairs()
    saver = Saver(tmp_path)
    saver.save = lambda trainer, event: trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch} {event}.ckpt")  # type: ignore[method-assign]
    L.Trainer(callbacks=[saver], **settings).fit(whole, data())
    assert {len(image) for image in whole.images} == {16, 8}
    resumed = Pairs()
    L.Trainer(**settings).fit(resumed, data(), ckpt_path=str(tmp_path / "0 after 2.ckpt"), weights_only=True)
    for one, other in zip(resumed.images, whole.images[2:], strict=True):
        assert torch.equal(one, other)
    # Other turns in the next epoch.
    assert not torch.equal(whole.images[0][:8], whole.images[0][8:])


def test_what_cannot_work_is_refused(dp2_repo: SimulatedRepository) -> None:
    with pytest.raises(ConfigurationError, match="n must be an integer"):
        data_of(dp2_repo, {"footprint": {"n": 0}}).setup()
