"""The clock of stages."""

import pickle
import threading
import time

import numpy as np
import pytest

from lsstcutouts import build_plan
from lsstcutouts.fits.stages import STAGES, StageClock
from lsstcutouts.read.reader import CutoutReader, Request, stream
from lsstcutouts.testing import SimulatedRepository


def test_seconds_of_threads_add_up() -> None:
    clock = StageClock()
    threads = [threading.Thread(target=lambda: [clock.add("read", 0.5) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tuple(clock.seconds()) == STAGES
    assert clock.seconds()["read"] == 200.0
    assert clock.spent() == 0.0
    clock.reset()
    assert not any(clock.seconds().values())


def test_the_rest_is_what_no_other_stage_took() -> None:
    clock = StageClock()
    with clock.rest("assemble"), clock.time("decode"):
        time.sleep(0.02)
    seconds = clock.seconds()
    assert seconds["decode"] >= 0.02
    assert 0 <= seconds["assemble"] < seconds["decode"] / 2


def test_a_block_that_fails_is_counted() -> None:
    clock = StageClock()
    with pytest.raises(KeyError), clock.time("plan"):
        raise KeyError
    assert clock.seconds()["plan"] > 0


def test_it_pickles_as_a_new_one() -> None:
    clock = StageClock()
    clock.add("read", 1.0)
    assert not any(pickle.loads(pickle.dumps(clock)).seconds().values())


def test_every_stage_of_reading_is_noticed(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=40)
    clock = StageClock()
    reader = CutoutReader(plan, clock=clock)
    start = time.perf_counter()
    list(
        stream(reader, [Request(np.arange(len(plan)))], threads=2, ahead=1, then=lambda delivery: delivery.batch_report)
    )
    wall = time.perf_counter() - start
    seconds = clock.seconds()
    assert {name for name, spent in seconds.items() if spent > 0} == {"locate", "read", "decode", "assemble"}
    assert sum(seconds.values()) < 2 * wall
