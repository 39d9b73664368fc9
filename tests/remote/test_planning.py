"""What planning asks of a Butler server: few requests, within its limit of queries, and once."""

import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lsstcutouts import CutoutDataModule, Footprint, build_plan
from lsstcutouts.errors import AuthenticationError, RepositoryUnavailableError
from lsstcutouts.plan.repository import Repository

from ..support.platform.science_platform import Platform, Published
from ..support.platform.settings import Request
from ..support.processes import run_python
from ..support.ranks import environment


def asked(requests: list[Request]) -> Counter[str]:
    """Return how many requests there were of each kind."""
    return Counter(
        "download" if request.path.endswith("/download") else request.path.partition("/dp2/")[2] for request in requests
    )


def test_planning_needs_few_requests(platform: Platform, remote_dp2: Published) -> None:
    """Fifteen at most, though the skymap of this repository is described by its records; none for each file."""
    plan = build_plan(remote_dp2.url, remote_dp2.local.truth, collections=remote_dp2.collections, bands="gri", size=32)
    found = asked(platform.log("api"))
    assert len(plan.files) >= 10
    assert sum(found.values()) - found["download"] <= 15
    assert found["download"] <= 1
    assert not any("get_file" in name for name in found)


def test_a_footprint_needs_few_requests(platform: Platform, remote_dp2: Published) -> None:
    """Two more than a catalog; none for each file or position. Limits on pixels are those of the local files."""
    given = {"collections": "dp2", "bands": "gri", "size": 32}
    plan = build_plan(remote_dp2.url, Footprint(n=300), **given)
    found = asked(platform.log("api"))
    assert sum(found.values()) - found["download"] <= 17, found
    assert found["download"] <= 1
    np.testing.assert_array_equal(plan.ra, build_plan(remote_dp2.local.root, Footprint(n=300), **given).ra)
    limits = Footprint(n=60, bands="all", min_valid=0.95, min_depth=20)
    here, there = (build_plan(repo, limits, **given) for repo in (remote_dp2.local.root, remote_dp2.url))
    np.testing.assert_array_equal(here.ra, there.ra)


def test_a_module_plans_once(platform: Platform, remote_dp2: Published, tmp_path: Path) -> None:
    """`prepare_data` and `setup` without a trainer, as in a notebook."""
    module = CutoutDataModule(
        remote_dp2.url, remote_dp2.collections, remote_dp2.local.truth, "gri", 32, batch_size=9, cache_bytes="100 MB"
    )
    module.prepare_data()
    module.setup()
    module.setup()
    assert asked(platform.log("api"))["v1/file_transfer"] == 2  # a few files to measure, and those of the plan


def test_queries_wait_for_a_server(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the words and the patience of reading."""
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "60")
    with Repository(remote_dp2.url, remote_dp2.collections) as repository:
        platform.set(away=1000.0)
        back = threading.Timer(2.0, platform.set, kwargs={"away": 0.0})
        back.start()
        assert repository.bands() == ("g", "i", "r")
        back.join()
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [text.startswith("waiting for http") for text in said] == [True, False]
        assert "answers again, after" in said[1]
        monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "0.5")
        platform.set(away=1000.0)
        with pytest.raises(RepositoryUnavailableError, match=r"has given no good answer for .*LSSTCUTOUTS_PATIENCE"):
            repository.bands()


def test_a_new_token_in_the_middle_of_a_session(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Butler of a session keeps the token that it was opened with; this package opens it again."""
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-old.token")
    with pytest.raises(AuthenticationError):
        Repository(remote_dp2.url, remote_dp2.collections)
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", platform.token)
    with Repository(remote_dp2.url, remote_dp2.collections) as repository:
        monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-expired.token")
        with pytest.raises(AuthenticationError, match="401"):
            repository.bands()
        monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", platform.token)
        assert repository.bands() == ("g", "i", "r")


@pytest.mark.slow
def test_processes_that_plan_at_once_are_all_served(platform: Platform, remote_dp2: Published) -> None:
    """The server allows two queries at a time; the others are asked to come again."""
    platform.set(query_limit=2, query_retry_after=1, query_hold=0.05)
    arguments = [remote_dp2.url, remote_dp2.local.truth, remote_dp2.collections]
    sizes = run_python("tests.support.planning", arguments, envs=[environment()] * 8, timeout=250)
    assert len(set(sizes)) == 1
    assert json.loads(sizes[0]) > 0
    assert platform.counters().statuses.get("429", 0) > 0
