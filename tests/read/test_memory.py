"""Memory is used again, but never under an array that lives."""

import gc
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.read import memory as memory_module
from lsstcutouts.read.memory import Memory

sizes = st.sampled_from([(3,), (40, 50), (128, 90), (150, 150), (600, 600), (1200, 300)])


@given(steps=st.lists(st.tuples(sizes, st.integers(0, 7), st.sampled_from([np.float32, np.int32, np.bool_]))))
def test_arrays_never_share_memory(steps: list[tuple[tuple[int, ...], int, type]]) -> None:
    memory = Memory()
    alive: list[np.ndarray] = []
    for i, (shape, dropped, dtype) in enumerate(steps):
        array = memory.empty(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        array.fill(i % 2 if dtype is np.bool_ else i)
        alive.append((array, i))
        if dropped < len(alive):
            del alive[dropped]
        del array
    for array, i in alive:
        assert (array == (i % 2 if array.dtype == bool else i)).all()


def test_memory_of_dropped_arrays_is_used_again() -> None:
    memory = Memory()
    places = set()
    for _ in range(50):
        array = memory.empty((600, 600), np.float32)
        places.add(array.ctypes.data)
        del array
    assert len(places) == 1


def test_views_and_tensors_keep_memory() -> None:
    memory = Memory()
    for keep in (lambda a: a[3:5, 7], lambda a: torch.from_numpy(a)[1], lambda a: a.reshape(-1).view(np.int32)):
        array = memory.empty((600, 600), np.float32)
        place = array.ctypes.data
        kept = keep(array)
        del array
        gc.collect()
        assert memory.empty((600, 600), np.float32).ctypes.data != place
        del kept
        assert place in {memory.empty((600, 600), np.float32).ctypes.data for _ in range(9)}


def test_large_memory_is_counted_and_few_pieces_wait() -> None:
    held = []
    memory = Memory(taken=held.append, returned=lambda nbytes: held.append(-nbytes))
    arrays = [memory.empty((600, 600), np.float32) for _ in range(20)]
    assert sum(held) == 20 * 1_440_000
    arrays.clear()
    assert 0 < sum(held) <= 8 * 1_440_000
    memory.trim()
    assert sum(held) == 0


def test_memory_that_never_came_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    memory = Memory(counted.append, lambda nbytes: counted.append(-nbytes))
    fresh = memory_module.fresh

    def interrupted(nbytes: int) -> None:
        fresh(nbytes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(memory_module, "fresh", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.empty((3, 4_000_000), np.float32)
    assert len(counted) == 2
    assert sum(counted) == 0
    with pytest.raises(MemoryError):
        memory.empty((1 << 46,), np.float32)
    assert sum(counted) == 0


def test_what_waits_goes_back_with_the_last_user() -> None:
    held = []
    memory = Memory(taken=held.append, returned=lambda nbytes: held.append(-nbytes))
    first, second = (memory.empty((600, 600), np.float32) for _ in range(2))
    del first, memory
    gc.collect()
    assert sum(held) == 2 * 1_440_000  # the second array still lives
    second.fill(1)
    del second
    gc.collect()
    assert sum(held) == 0


def test_threads_do_not_meet() -> None:
    memory, wrong = Memory(), []

    def work(number: int) -> None:
        for i in range(300):
            array = memory.empty((64 + i % 3 * 500, 70), np.float32)
            array.fill(number)
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_arrays_of_nothing() -> None:
    assert Memory().empty((0, 6, 64, 64), np.float32).shape == (0, 6, 64, 64)


def test_it_pickles_empty() -> None:
    memory = Memory()
    memory.empty((600, 600), np.float32)
    again = pickle.loads(pickle.dumps(memory))
    assert not again._pieces
    assert again.empty((150, 150), np.float32).shape == (150, 150)
