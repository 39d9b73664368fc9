"""Drop passes and fetchers in every way while the garbage collector runs all the time, in every thread.

A script of its own, since what it looks for hangs a process: ``python -m tests.support.dropping PLAN REPOSITORY``. When it takes
too long, faulthandler shows all stacks and ends it.
"""

import faulthandler
import gc
import itertools
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import torch

from lsstcutouts import Sampling, TransferOptions
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.transfer import DirectTransfer
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.transforms.fit import fit_statistics

from .leftovers import held, left


def collect_anywhere(every: int) -> None:
    """Let threads that start from now on, and this one, collect all garbage at every so-manieth call of a function.

    By itself the collector runs where most objects are made: in the thread that drops passes, not in one that decodes.
    """
    calls = itertools.count()

    def profile(frame: object, event: str, what: object) -> None:
        if event == "call" and next(calls) % every == 0:
            gc.collect()

    threading.setprofile(profile)
    sys.setprofile(profile)


def ring(thing: object) -> None:
    """Let only the garbage collector free something: a traceback or a callback that holds itself does so."""
    box = [thing]
    box.append(box)


class Ways:
    """Ways to leave something behind; all share one cache, whose tiles come and go."""

    def __init__(self, plan: CutoutPlan, repository: str) -> None:
        self.plan = plan
        self.cache = TileCache("2 MB")
        self.kept = CutoutLoader(self.dataset(0))
        self.repository = repository
        self.fetcher = self.new_fetcher()
        self.whole = CutoutReader(plan, ReaderOptions()).read(np.arange(len(plan)))["image"]

    def new_fetcher(self) -> LsstDataFetcher:
        fetcher = LsstDataFetcher(self.repository, collections="dp2", bands="gri", size=32, threads=2)
        fetcher.cache = self.cache
        return fetcher

    def dataset(self, seed: int) -> CutoutDataset:
        return CutoutDataset(
            self.plan, batch_size=7, cache=self.cache, threads=2, seed=seed, sampling=Sampling(shuffle="full")
        )

    def loader(self, seed: int) -> None:
        passing = iter(CutoutLoader(self.dataset(seed)))
        next(passing)
        ring(passing)

    def same_loader(self, seed: int) -> None:  # noqa: ARG002
        passing = iter(self.kept)
        next(passing)
        ring(passing)

    def device(self, seed: int) -> None:
        loader = CutoutLoader(self.dataset(seed), transfer=TransferOptions(wire="float16"))
        loader.mover = DirectTransfer(torch.device("cpu"))
        passing = iter(loader)
        next(passing), next(passing)
        ring(passing)

    def plain_iterator(self, seed: int) -> None:
        passing = iter(self.dataset(seed))
        next(passing)
        ring(passing)

    def traceback(self, seed: int) -> None:
        try:
            for _ in CutoutLoader(self.dataset(seed)):
                _ = 1 / 0
        except ZeroDivisionError as error:
            ring(error)

    def fetches(self) -> Iterator[object]:
        with self.fetcher as fetcher:
            for n in range(1, 5):
                yield fetcher.fetch_plan(self.plan, range(n))

    def generator(self, seed: int) -> None:  # noqa: ARG002
        going = self.fetches()
        try:
            next(going)
        except ConfigurationError as error:  # a generator that was dropped closed the fetcher that all share
            assert "closed by another thread" in str(error)  # noqa: PT017
        ring(going)

    def fetchers(self, seed: int) -> None:
        """Leave two fetchers behind, each of which closes the other."""

        def fetches(one: LsstDataFetcher, other: LsstDataFetcher) -> Iterator[object]:
            try:
                with one:
                    while True:
                        yield one.fetch_plan(self.plan, [seed % len(self.plan)])
            finally:
                other.close()

        one, other = self.new_fetcher(), self.new_fetcher()
        going = fetches(one, other), fetches(other, one)
        for each in going:
            next(each)
        ring(going)

    def batch(self, seed: int) -> None:
        try:
            got = self.fetcher.fetch_plan(self.plan, [seed % len(self.plan)])["image"]
            np.testing.assert_array_equal(got[0], self.whole[seed % len(self.plan)])
            ring(got)
        except ConfigurationError as error:
            assert "closed by another thread" in str(error)  # noqa: PT017

    def statistics(self, seed: int) -> None:
        def fail(done: int, total: int) -> None:
            raise ZeroDivisionError

        try:
            fit_statistics(self.plan, np.arange(len(self.plan)), sample=50, seed=seed, threads=2, progress=fail)
        except ZeroDivisionError as error:
            ring(error)


def go_round(way: Callable[[int], None], start: int, rounds: int) -> None:
    for number in range(start, start + rounds):
        way(number)


def in_threads(ways: Ways, rounds: int) -> None:
    all_ways = [
        ways.loader,
        ways.device,
        ways.plain_iterator,
        ways.traceback,
        ways.generator,
        ways.fetchers,
        ways.batch,
    ]
    threads = [
        threading.Thread(target=go_round, args=(way, 1000 * number, rounds))
        for number, way in enumerate([*all_ways, ways.statistics])
    ]
    for thread in threads:
        thread.start()
    go_round(ways.same_loader, 0, rounds)  # a loader has one loop at a time
    for thread in threads:
        thread.join()


def interrupted(ways: Ways, seconds: float) -> int:
    """Press Ctrl-C again and again, at any place; return how often it was seen."""
    chance, seen = random.Random(5), 0
    end = time.monotonic() + seconds
    reader = CutoutReader(ways.plan, cache=ways.cache)

    def press(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is threading.Thread.start.__code__:
                # Python 3.13 itself would leave the new thread waiting for ever for a lock that nobody releases.
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, press)
    what = [lambda: list(ways.kept), lambda: ways.batch(3), lambda: reader.read(np.arange(20))]
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.03))
            for each in what:
                each()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt as error:
            seen += 1
            ring(error)
    return seen


def main(plan: str, repository: str) -> None:
    faulthandler.dump_traceback_later(160, exit=True)
    trouble: list[str] = []

    def note(what: Any) -> None:
        if what.exc_type is not KeyboardInterrupt:  # in a finalizer Python itself can only show it
            trouble.append("".join(traceback.format_exception(what.exc_value)))

    sys.unraisablehook = threading.excepthook = note
    before = held()
    gc.freeze()  # what is there by now is no garbage: each collection is short
    ways = Ways(CutoutPlan.load(plan), repository)
    threshold = gc.get_threshold()
    gc.disable()
    collect_anywhere(1009)
    in_threads(ways, 3)
    sys.setprofile(None)
    threading.setprofile(None)
    gc.enable()
    gc.set_threshold(1)
    in_threads(ways, 6)
    gc.set_threshold(20)
    seen = interrupted(ways, 3.0)
    gc.set_threshold(*threshold)
    got = ways.fetcher.fetch_plan(ways.plan)["image"]
    np.testing.assert_array_equal(got, ways.whole)
    assert sorted(i for b in CutoutLoader(ways.dataset(0)) for i in b["object_id"].tolist()) == sorted(
        ways.plan.object_id
    )
    cache = ways.cache
    ways.fetcher.close()
    del ways, got
    gc.unfreeze()
    more = left(before, 20)
    gc.collect()
    assert not trouble, trouble
    assert not more, more
    assert cache.stats().reserved == 0, cache.stats()
    assert not cache._state().flights
    assert seen > 5, seen


if __name__ == "__main__":
    main(*sys.argv[1:])
