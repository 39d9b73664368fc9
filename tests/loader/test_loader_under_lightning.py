"""What Lightning does to loaders, and what a failed training leaves behind in the process."""

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator

import lightning as L
import pytest
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from .test_module import Watcher


class Refusing(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        raise ValueError("no data")


@pytest.fixture
def after_a_failed_training() -> Iterator[None]:
    """Let Lightning leave its wrappers on the methods of all loaders, and take them off in the end."""
    with pytest.raises(ValueError, match="no data"):
        L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(Watcher(), Refusing())
    assert "__old__init__" in vars(DataLoader), "Lightning cleans up by itself: CutoutLoader's property can go"
    yield
    for cls in get_all_subclasses(DataLoader) | get_all_subclasses(BatchSampler) | {DataLoader, BatchSampler}:
        for name in ("__init__", "__setattr__", "__delattr__"):
            while f"__old{name}" in vars(cls):
                setattr(cls, name, getattr(cls, f"__old{name}"))
                delattr(cls, f"__old{name}")


@pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no:lightning.fabric.utilities.warnings.PossibleUserWarning"
)
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined:UserWarning")
@pytest.mark.usefixtures("after_a_failed_training")
def test_loaders_after_a_failed_training(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24)
    loader = CutoutLoader(CutoutDataset(plan, batch_size=8, cache_bytes="50 MB"))
    passes = [iter(loader) for _ in range(2)]
    batches = [[batch["object_id"].tolist() for batch in one] for one in passes]
    references = [weakref.ref(one) for one in passes]
    del passes
    gc.collect()
    assert not any(one() for one in references)  # nothing records them
    assert "__pl_attrs_record" not in vars(loader)
    for made in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader), copy.copy(loader)):
        assert made.position == loader.position
    trainer = L.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model = Watcher()
    trainer.fit(model, CutoutLoader(loader.cutouts))
    assert len(batches[1]) == trainer.num_training_batches
    assert [len(set(seen)) for seen in model.seen["train"]] == [len(plan)] * 2
    predicted = CutoutLoader(loader.cutouts)
    trainer.predict(model, predicted)
    assert sorted(model.seen["predict"][-1]) == sorted(plan.object_id.tolist())
