"""What the data module draws, and when it refuses to go on."""

from collections import Counter
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lsstcutouts import Sampling, SplitOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, ResumeError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.testing import SimulatedRepository

from .test_module import Watcher, data_of, trainer_of


def labels_of(repo: SimulatedRepository) -> dict[int, int]:
    catalog = Catalog.from_any(repo.truth, columns=("label",))
    return dict(zip(catalog.object_id.tolist(), catalog.columns["label"].tolist(), strict=True))


def test_classes_are_drawn_equally_often(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, columns=(), sampling=Sampling(balance="label", epoch_size=30))
    data.setup()
    label = labels_of(dp2_repo)
    batches = list(data.train_dataloader())
    drawn = Counter(label[i] for b in batches for i in b["object_id"].tolist())
    assert drawn == {0: 15, 1: 15}
    # Validation takes each target once.
    seen = [i for b in data.val_dataloader() for i in b["object_id"].tolist()]
    assert len(seen) == len(set(seen)) == len(data.splits["val"][1])


def test_weights_are_a_column(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, sampling=Sampling(weights="label", epoch_size=20, replacement=True))
    data.setup()
    assert all((b["label"] == 1).all() for b in data.train_dataloader())


@pytest.mark.parametrize("shuffle", ["full", "block", True, False])
def test_the_kind_of_shuffling_reaches_the_training(dp2_repo: SimulatedRepository, shuffle) -> None:
    data = data_of(dp2_repo, sampling=Sampling(shuffle=shuffle, shuffle_width=1))
    data.setup()
    loader = data.train_dataloader()
    seen = [i for b in loader for i in b["object_id"].tolist()]
    plan, rows = data.splits["train"]
    dataset = CutoutDataset(
        plan, rows=rows, batch_size=8, cache_bytes="1 MB", sampling=Sampling(shuffle=shuffle, shuffle_width=1)
    )
    assert seen == plan.object_id[dataset.order(0)].tolist()
    assert loader.state_dict()["order"]["shuffle"] == {True: "block", False: "none"}.get(shuffle, shuffle)


@pytest.mark.parametrize(
    ("changes", "words"), [({"epoch_size": 0}, "epoch_size"), ({"shuffle": "some"}, "shuffle must be")]
)
def test_sampling_is_checked_at_once(changes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Sampling(**changes)


def test_a_column_of_words_is_no_weight(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, sampling=Sampling(weights="kind"))
    data.setup()
    with pytest.raises(ConfigurationError, match="the weights in column 'kind' must have one number per target"):
        data.train_dataloader()


def test_a_column_with_missing_classes_is_named(dp2_repo: SimulatedRepository) -> None:
    truth = Catalog.from_any(dp2_repo.truth, columns=("label",))
    label = np.where(np.arange(len(truth)) % 3 == 0, np.nan, truth.columns["label"])
    catalog = Catalog.from_arrays(truth.ra, truth.dec, truth.object_id, {"label": label})
    data = data_of(dp2_repo, catalog=catalog, sampling=Sampling(balance="label"))
    data.setup()
    with pytest.raises(ConfigurationError, match=r"the column balance='label' has no class for \d+ of \d+ targets"):
        data.train_dataloader()
    data = data_of(
        dp2_repo,
        catalog=catalog,
        sampling=Sampling(balance="label", epoch_size=20),
        splits=SplitOptions(select="label >= 0"),
    )
    data.setup()
    drawn = Counter(float(i) for b in data.train_dataloader() for i in b["label"])
    assert drawn == {0.0: 10, 1.0: 10}


@pytest.mark.parametrize("stage", ["fitt", "train", ""])
def test_a_stage_that_is_none(dp2_repo: SimulatedRepository, stage: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"setup\('{stage}'\): stage must be one of fit, validate"):
        data_of(dp2_repo).setup(stage)


def test_a_resume_with_another_batch_size_is_explained(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    class Saver(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    trainer_of(tmp_path, max_epochs=1, callbacks=[Saver()]).fit(Watcher(), data_of(dp2_repo))
    for changes, words in (
        ({"batch_size": 4}, "8 in the checkpoint, 4 now"),
        ({"splits": {"train": 0.75, "val": 0.25}}, "the plan or the split"),
        ({"sampling": Sampling(balance="label")}, "weights, balance"),
    ):
        with pytest.raises(ResumeError, match=words):
            trainer_of(tmp_path, max_epochs=2).fit(
                Watcher(), data_of(dp2_repo, **changes), ckpt_path=str(tmp_path / "inside.ckpt"), weights_only=True
            )
    with pytest.raises(ConfigurationError, match=r"size in pixels .*\[24, 24\] in the training, \[32, 32\] here"):
        trainer_of(tmp_path, max_epochs=2).fit(
            Watcher(), data_of(dp2_repo, size=32), ckpt_path=str(tmp_path / "inside.ckpt"), weights_only=True
        )


def test_a_weighted_epoch_goes_on(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    changes = {"sampling": Sampling(weights="label", epoch_size=40)}

    class Saver(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    first, second = Watcher(), Watcher()
    trainer_of(tmp_path, max_epochs=1, callbacks=[Saver()]).fit(first, data_of(dp2_repo, **changes))
    trainer_of(tmp_path, max_epochs=1).fit(
        second, data_of(dp2_repo, **changes), ckpt_path=str(tmp_path / "inside.ckpt"), weights_only=True
    )
    assert second.seen["train"][0] == first.seen["train"][0][16:]
    assert torch.load(tmp_path / "inside.ckpt", weights_only=True)["CutoutDataModule"]["train"]["order"]["sampling"]
