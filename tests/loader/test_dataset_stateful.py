"""torchdata's StatefulDataLoader over the dataset: its state alone brings a training back to the next batch."""

import io
from typing import Any

import pytest
import torch

from lsstcutouts.errors import ResumeError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.plan.cutout_plan import CutoutPlan

# What torchdata 0.11 asks of torch and torch has deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
stateful = pytest.importorskip("torchdata.stateful_dataloader")


def dataset_of(plan: CutoutPlan, **changes: Any) -> CutoutDataset:
    return CutoutDataset(plan, **{"batch_size": 9, "cache_bytes": "50 MB", "threads": 1, **changes})


def loader_of(dataset: CutoutDataset, workers: int) -> Any:
    context = {"multiprocessing_context": "forkserver"} if workers else {}
    return stateful.StatefulDataLoader(dataset, batch_size=None, num_workers=workers, **context)


def kept(state: Any) -> Any:
    """Return a state as a checkpoint brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def whole(plan: CutoutPlan, epoch: int) -> list[list[int]]:
    dataset = dataset_of(plan)
    dataset.set_epoch(epoch)
    return [b["object_id"].tolist() for b in dataset]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_it_goes_on_at_the_next_batch(plan: CutoutPlan, workers: int) -> None:
    epochs = [whole(plan, epoch) for epoch in range(3)]
    dataset = dataset_of(plan)
    loader = loader_of(dataset, workers)
    dataset.set_epoch(1)
    places = [(batch["object_id"].tolist(), kept(loader.state_dict())) for batch in loader]
    assert [ids for ids, _ in places] == epochs[1]
    assert len(places) == 9
    for done in (4,) if workers else range(1, 10):
        other = dataset_of(plan)
        again = loader_of(other, workers)
        again.load_state_dict(places[done - 1][1])
        assert [b["object_id"].tolist() for b in again] == epochs[1][done:]
        if done in {4, 9}:  # without a word
            assert [b["object_id"].tolist() for b in again] == epochs[2]
    assert [b["object_id"].tolist() for b in loader] == epochs[2]
    other = dataset_of(plan)
    ended = loader_of(other, workers)
    ended.load_state_dict(kept(places[-1][1]))
    found = [[b["object_id"].tolist() for b in ended] for _ in range(2)]
    # After the last batch of an epoch torchdata gives an empty pass before the next epoch.
    assert next(epoch for epoch in found if epoch) == epochs[2]


def test_before_the_first_batch(plan: CutoutPlan) -> None:
    state = kept(loader_of(dataset_of(plan), 0).state_dict())
    again = loader_of(dataset_of(plan), 0)
    again.load_state_dict(state)
    assert [b["object_id"].tolist() for b in again] == whole(plan, 0)


def test_other_batches_are_refused(plan: CutoutPlan) -> None:
    loader = loader_of(dataset_of(plan), 0)
    next(iter(loader))
    other = loader_of(dataset_of(plan, batch_size=8), 0)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(ResumeError, match="9 in the checkpoint, 8 now"):
        next(iter(other))
