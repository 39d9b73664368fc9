"""Several views of each target in one batch: where they are, and that each is augmented by itself."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import AddNoise, Augmentation, Compose, RandomD4, RandomShift, Views

from ..support.augmenting import full_batch, same


def augmentations(seed: int = 0) -> nn.Module:
    return Compose([RandomShift(3, seed=seed), RandomD4(seed), AddNoise((0.5, 2.0), seed=seed)])


def at_epoch(views: Views, epoch: int) -> Views:
    for module in views.modules():
        if isinstance(module, Augmentation):
            module.set_epoch(epoch)
    return views


def test_the_views_follow_one_another_target_by_target() -> None:
    batch = {**full_batch(6), "note": [f"target {n}" for n in range(6)]}
    several = Views(nn.Identity(), 3)(batch)
    assert several.keys() == batch.keys()
    for view in range(3):
        part = {name: value[6 * view : 6 * view + 6] for name, value in several.items()}
        assert part.pop("note") == batch["note"]
        same(part, {name: value for name, value in batch.items() if name != "note"})
    one, other, last = several["image"].chunk(3)
    assert torch.equal(one, other)
    assert torch.equal(one, last)


def test_each_view_is_augmented_with_its_own_random_numbers() -> None:
    batch = full_batch(64)
    views = Views(augmentations(), 3)
    chunks = views(batch)["image"].chunk(3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        differs = (chunks[one] != chunks[other]).flatten(1).any(dim=1)
        assert differs.all()  # noise alone makes them differ
    # The first view is what there is without views, and the others are those of its repeats.
    same(augmentations()(batch), {n: v[:64] for n, v in views(batch).items()})
    repeated = augmentations()({**batch, "repeat": torch.ones(64, dtype=torch.int64)})
    torch.testing.assert_close(repeated["image"], chunks[1])


def test_choices_repeat_and_change_from_epoch_to_epoch() -> None:
    batch = full_batch(32)
    first, again = Views(augmentations(3)), pickle.loads(pickle.dumps(Views(augmentations(3))))
    same(at_epoch(first, 4)(batch), at_epoch(again, 4)(batch))
    same(copy.deepcopy(first)(batch), first(batch))
    assert not torch.equal(at_epoch(first, 4)(batch)["image"], at_epoch(again, 5)(batch)["image"])
    # In any batch and order.
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    moved = first({name: value[order] for name, value in batch.items()})
    both = torch.cat([order, order + 32])
    same(moved, {name: value[both] for name, value in first(batch).items()}, atol=1e-4)


def test_a_repeated_target_has_other_views() -> None:
    batch = full_batch(16)
    batch = {name: torch.cat([value, value]) for name, value in batch.items()}
    batch["repeat"] = torch.arange(2, dtype=torch.int32).repeat_interleave(16)
    several = Views(augmentations())(batch)
    assert torch.equal(several["repeat"], torch.cat([batch["repeat"]] * 2))
    images = several["image"].reshape(4, 16, -1)  # view and repeat
    for i in range(4):
        for j in range(i):
            assert (images[i] != images[j]).any(dim=1).all()


def test_batches_of_no_and_of_one_target() -> None:
    assert {len(value) for value in Views(nn.Identity())(full_batch(0)).values()} == {0}
    assert {len(value) for value in Views(augmentations())(full_batch(1)).values()} == {2}


def test_what_cannot_work_is_refused() -> None:
    for n in (1, 0, True, 2.0, "two"):
        with pytest.raises(ConfigurationError, match="n must be a number of views of at least 2"):
            Views(RandomD4(), n)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"augmentations must be a torch\.nn\.Module"):
        Views([RandomD4()])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Views needs 'image'"):
        Views(RandomD4())({"variance": torch.zeros(2, 1, 3, 3)})
