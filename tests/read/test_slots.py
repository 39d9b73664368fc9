"""Slots: aligned, apart from each other, and given back slab by slab."""

import numpy as np
import pytest

from lsstcutouts.read.cache.slots import Slots


@pytest.mark.parametrize(("nbytes", "slab"), [(1, 1), (64, 1000), (90_000, 1 << 22), (1_000_001, 1000)])
def test_slots_are_aligned_and_apart(nbytes: int, slab: int) -> None:
    slots = Slots(nbytes, slab)
    for _ in range(3):
        slots.add_slab()
    assert len(slots) == 3 * slots.per_slab
    assert slots.slab_bytes >= slots.per_slab * nbytes
    assert (slots.address % np.uint64(64) == 0).all()
    assert len(slots) == 1 or np.diff(np.sort(slots.address)).min() >= nbytes
    for slot in range(len(slots)):
        slots.view(slot, np.dtype(np.uint8), (nbytes,))[:] = slot % 251
    for slot in range(len(slots)):
        assert (slots.view(slot, np.dtype(np.uint8), (nbytes,)) == slot % 251).all()


def test_a_slab_goes_and_its_numbers_come_again() -> None:
    slots = Slots(1000, 4096)
    for _ in range(3):
        slots.add_slab()
    slots.used[:] = np.arange(len(slots))
    slots.pins[0] = 1
    assert slots.oldest_slab() == (2 * slots.per_slab - 1, 1)
    slots.drop_slab(1)
    assert set(slots.idle().tolist()) == set(range(1, len(slots))) - set(slots.of_slab(1).tolist())
    with pytest.raises(ValueError, match="has no memory"):
        slots.view(int(slots.of_slab(1)[0]), np.dtype(np.uint8), (1,))
    slots.add_slab()
    assert len(slots) == 3 * slots.per_slab
    assert slots.alive.all()
    assert (slots.used[slots.of_slab(1)] == -1).all()
    slots.pins[:] = 1
    assert slots.oldest_slab() is None


def test_what_is_kept_of_a_view_outlives_its_slab() -> None:
    slots = Slots(1000, 4096)
    slots.add_slab()
    view = slots.view(2, np.dtype(np.float32), (5, 50))
    view[...] = 7
    slots.drop_slab(0)
    assert (view == 7).all()
