"""Refused access while cutouts are read: no policy masks or skips it; a missing object of S3 is a fault of its file."""

import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsstcutouts import ReadOptions
from lsstcutouts.errors import AccessDeniedError, AuthenticationError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.quality import Outcome, Quality
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Request
from lsstcutouts.read.report import Report
from lsstcutouts.read.threads import Threads
from lsstcutouts.source.web.process import forget_bytes
from lsstcutouts.testing import SimulatedRepository

from ..support.delivery import deliver, plan_of
from ..support.server import LOGIN_PAGE, Store, serving, xml

REFUSALS = {
    "S3": (403, xml("AccessDenied", "Request has expired")),
    "Google": (400, xml("ExpiredToken", "The provided token has expired.")),
    "proxy": (401, b"<html>401 Authorization Required</html>"),
    "log-in page": (200, LOGIN_PAGE),
}


@pytest.fixture
def store(dp2_repo: SimulatedRepository) -> Iterator[Store]:
    with serving(dp2_repo.root, Store) as server:
        yield server


@pytest.fixture
def plan(dp2_repo: SimulatedRepository, store: Store) -> CutoutPlan:
    """A plan whose files are signed URLs."""
    local = plan_of(dp2_repo)
    query = f"X-Amz-Date={time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}&X-Amz-Expires=3600&X-Amz-Signature=geheim"
    uris = tuple(f"{store.url}/{Path(uri).relative_to(dp2_repo.root)}?{query}" for uri in local.files.uri)
    return replace(local, files=replace(local.files, uri=uris))


@pytest.mark.parametrize("policy", ["raise", "mask", "skip"])
def test_refused_access_ends_the_pass(plan: CutoutPlan, store: Store, policy: str) -> None:
    """From the first file on, and with files that are open already."""
    targets = np.flatnonzero(plan.patch == 9)[:3]
    for status, body in REFUSALS.values():
        reader = CutoutReader(plan, ReaderOptions(on_read_error=policy), cache=TileCache("100 MB"))
        good = reader.read(targets)["image"]
        assert good.any(axis=(2, 3)).all()
        reader.cache.clear()
        forget_bytes()
        store.refuse("/", status, body)
        for _ in range(2):
            with pytest.raises(AuthenticationError, match=r"127\.0\.0\.1.*answers.*make the plan again") as caught:
                reader.read(targets)
            assert "geheim" not in "".join(traceback.format_exception(caught.value))
            reader.close()
        store.refused.clear()
        np.testing.assert_array_equal(reader.read(targets)["image"], good)


def test_a_missing_object_is_a_fault_of_its_file(plan: CutoutPlan, store: Store) -> None:
    rows = np.flatnonzero(plan.patch == 9)
    store.refuse("/9/r/", 403, xml("AccessDenied", "Access Denied"))
    with pytest.raises(
        AccessDeniedError,
        match=r"/9/r/.*: the file does not exist, or this user has no permission to read it.*patch 9, band r",
    ):
        deliver(plan, rows)
    masked = deliver(plan, rows, on_read_error="mask")
    lost = (masked.batch["quality"] & Quality.READ_ERROR) != 0
    assert lost[:, 1].all()
    assert not lost[:, [0, 2]].any()
    assert masked.batch["image"][:, 0].any()
    outcome = deliver(plan, rows, on_read_error="skip").batch_report.outcome
    assert (outcome == Outcome.READ_ERROR).all()
    report = Report(plan, rows)
    report.add(masked.batch_report)
    assert {failure.kind for failure in report.failures} == {"AccessDeniedError"}
    assert "geheim" not in str(report) + str(report.failures) + repr(plan.files)
    # Later every file is refused as well: that is no fault of this one any more.
    forget_bytes()
    store.refuse("/", 403, xml("AccessDenied", "Access Denied"))
    with pytest.raises(AuthenticationError, match="the file may also be missing"):
        deliver(plan, rows, on_read_error="mask")


def test_a_missing_object_does_not_end_an_epoch(plan: CutoutPlan, store: Store) -> None:
    loader = CutoutLoader(CutoutDataset(plan=plan, batch_size=8, read=ReadOptions(on_read_error="mask")))
    store.refuse("/9/r/", 403, xml("AccessDenied", "Access Denied"))
    assert sum(len(batch["object_id"]) for batch in loader) == len(plan)
    assert {failure.kind for failure in loader.report.failures} == {"AccessDeniedError"}


@pytest.mark.parametrize("workers", [0, 1])
def test_refused_access_ends_an_epoch(plan: CutoutPlan, store: Store, workers: int) -> None:
    """In threads, and in a worker process, whose start takes seconds."""
    store.refuse("/", *REFUSALS["Google"])
    loader = CutoutLoader(
        CutoutDataset(plan=plan, batch_size=8, read=ReadOptions(on_read_error="mask")), num_workers=workers
    )
    with pytest.raises(AuthenticationError, match=r"127\.0\.0\.1.*ExpiredToken.*make the plan again") as caught:
        next(iter(loader))
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_many_requests_are_sent_at_once_whatever_the_number_of_threads(plan: CutoutPlan, store: Store) -> None:
    store.delay = 0.5  # so long that a busy machine sends them all meanwhile
    dataset = CutoutDataset(plan=plan, batch_size=24, threads=1, cache_bytes="100 MB")
    images = {int(i): image for batch in dataset for i, image in zip(batch["object_id"], batch["image"], strict=True)}
    assert len(plan.files) <= store.most_waiting <= 48  # headers of all files, at least, at once
    store.delay = 0
    good = deliver(plan).batch
    for n, name in enumerate(good["object_id"].tolist()):
        np.testing.assert_array_equal(images[name], good["image"][n])


def test_batches_that_are_begun_together_are_both_read_with_many_requests(plan: CutoutPlan, store: Store) -> None:
    """Of the second one nothing has been asked for when it is begun, which does not mean that the cache has it."""
    reader, threads = CutoutReader(plan, cache=TileCache("100 MB")), Threads(16)
    rows = np.arange(len(plan))

    def begin(targets: np.ndarray) -> Any:
        return reader.submit(threads, Request(targets), then=lambda delivery: delivery.batch["object_id"])

    for _ in range(2):
        begin(rows[:2]).result()
    store.delay, store.most_waiting = 1.5, 0  # so long that a busy machine begins both meanwhile
    asked = len(store.requests)
    for batch in [begin(rows[2:3]), begin(rows[3:])]:
        batch.result()
    threads.stop()
    known, files = ({path for _, path, _ in some} for some in (store.requests[:asked], store.requests[asked:]))
    assert 4 < len(files - known) <= store.most_waiting <= 48  # headers of all that are new, at least, at once
