"""Forked processes read with connections of their own, and leave those of their parent alone."""

import os
import sys
import time

import pytest
from torch.utils.data import DataLoader

from lsstcutouts.source.web.process import web_of_process

from ..support.platform.science_platform import Platform, Published
from ..support.remote import arrays_of, dataset_of, epoch, local_plan, remote_plan, same

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def forget_arrived() -> None:
    """Drop the bytes in memory, but neither URLs nor connections."""
    web = web_of_process()
    web._recent.clear()
    web._recent_bytes = 0


def test_workers_that_are_forked(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they collect as garbage must not end the connections of the process that they were forked from."""
    monkeypatch.setenv("LSST_HTTP_TIMEOUT_READ", "10")
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    plan = remote_plan(remote_dp2)
    dataset = dataset_of(plan, cache_bytes="1 MB")
    assert same(arrays_of(dataset), local)
    for _ in range(2):
        assert same(
            arrays_of(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")), local
        )
        forget_arrived()
        start = time.monotonic()
        assert same(epoch(dataset_of(plan)), local)
        assert time.monotonic() - start < 10
    assert platform.counters().statuses.keys() <= {"200", "206", "307"}


def test_a_forked_process_ends_at_once(remote_dp2: Published) -> None:
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan))
    pid = os.fork()
    if pid == 0:
        web_of_process().close()  # of its own, as at its end
        os._exit(0 if "lsstcutouts" in sys.modules else 1)
    start = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert time.monotonic() - start < 5
    forget_arrived()
    assert len(epoch(dataset_of(plan))) == len(plan)
