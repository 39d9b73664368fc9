"""The position of a loader in loops of one's own: several iterators, copies, Fabric, other loaders of a dataset."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.loader import CutoutLoader

from ..support.resuming import Runs

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=:UserWarning"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_several_iterators_of_one_loader(runs: Runs, epochs: Any, workers: int) -> None:
    loader = runs.loader(workers)
    assert [[a["object_id"].tolist(), b["object_id"].tolist()] for a, b in zip(loader, loader, strict=True)] == [
        [ids, ids] for ids in epochs[0]
    ]
    early = iter(loader)
    seen = [next(early)["object_id"].tolist()]
    late = iter(loader)  # takes the workers over
    assert next(late)["object_id"].tolist() == epochs[2][0]
    seen += [batch["object_id"].tolist() for batch in early]
    assert seen == epochs[1]
    assert [batch["object_id"].tolist() for batch in late] == epochs[2][1:]
    assert loader.position == (2, len(loader))
    assert loader.report.delivered == len(loader.cutouts.rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_loaders_of_one_dataset(runs: Runs, epochs: Any, workers: int) -> None:
    one = runs.loader(workers)
    other = CutoutLoader(one.cutouts, num_workers=workers)
    other.set_epoch(3)
    first, second = iter(one), iter(other)
    pairs = [(next(first)["object_id"].tolist(), next(second)["object_id"].tolist()) for _ in range(len(one))]
    assert pairs == list(zip(epochs[0], epochs[3], strict=True))
    assert one.report.delivered == other.report.delivered == len(one.cutouts.rows)
    assert (one.position.epoch, other.position.epoch) == (0, 3)


def test_the_position_is_taken_at_iter(runs: Runs, epochs: Any) -> None:
    loader = runs.loader()
    passing = iter(loader)
    loader.set_epoch(4)
    assert next(passing)["object_id"].tolist() == epochs[0][0]
    assert [batch["object_id"].tolist() for batch in loader] == epochs[4]
    with pytest.raises(ConfigurationError, match="epoch must be at least 0, got -1"):
        loader.set_epoch(-1)


def unpickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, unpickled])
def test_copies_have_positions_of_their_own(runs: Runs, epochs: Any, how: Callable[[Any], Any]) -> None:
    loader = runs.loader()
    passing = iter(loader)
    next(passing), next(passing)
    made = how(loader)
    assert made.position == (0, 2)
    assert [b["object_id"].tolist() for b in made] == epochs[1]  # after a pass that delivered something
    assert loader.position == (0, 2)
    assert [b["object_id"].tolist() for b in passing] == epochs[0][2:]
    assert loader.report is not made.report
    made.load_state_dict({"epoch": 3, "batch": 0})
    assert [b["object_id"].tolist() for b in loader] == epochs[1]
    assert [b["object_id"].tolist() for b in made] == epochs[3]
    dataset = loader.cutouts
    dataset.set_epoch(2)
    other = how(dataset)
    dataset.set_epoch(0)
    assert [b["object_id"].tolist() for b in other] == epochs[2]
    assert [b["object_id"].tolist() for b in dataset] == epochs[0]
    assert [b["object_id"].tolist() for b in other] == epochs[3]


def test_a_copied_module_has_its_own_position(runs: Runs, epochs: Any) -> None:
    data = runs.data()
    data.setup()
    loader = data.train_dataloader()
    next(iter(loader))
    made = copy.deepcopy(data)
    assert [b["object_id"].tolist() for b in made.train_dataloader()] == epochs[0]
    assert data.state_dict()["train"]["batch"] == 1


def test_fabric_counts_its_own_epochs(runs: Runs, epochs: Any) -> None:
    """It tells 0, 1, ... from its own start, also where a training goes on."""
    fabric = L.Fabric(accelerator="cpu", devices=1)
    loader = runs.loader()
    wrapped: Iterator[Any] = fabric.setup_dataloaders(loader)  # type: ignore[assignment]
    assert [[b["object_id"].tolist() for b in wrapped] for _ in range(2)] == epochs[:2]
    passing = iter(wrapped)
    seen = [next(passing)["object_id"].tolist() for _ in range(3)]
    state = loader.state_dict()
    later = runs.loader()
    later.load_state_dict(state)
    wrapped = fabric.setup_dataloaders(later)  # type: ignore[assignment]
    assert seen + [b["object_id"].tolist() for b in wrapped] == epochs[2]
    assert [b["object_id"].tolist() for b in wrapped] == epochs[3]


def test_reading_leaves_the_global_random_numbers_alone(runs: Runs) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        for _ in runs.loader(workers):
            pass
    assert torch.equal(torch.get_rng_state(), before)
