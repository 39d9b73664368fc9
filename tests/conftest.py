"""The kinds of the tests, and the repositories that many share: written once on a machine, they must not be changed."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from .support.examples import register_profiles
from .support.kinds import kind_of
from .support.platform.fixtures import closed_clients, platform, remote_dp1, remote_dp2, shared_platform
from .support.repositories import SMALL, changed_repositories, simulated_once

__all__ = ["closed_clients", "platform", "remote_dp1", "remote_dp2", "shared_platform"]

register_profiles()

# No test fills the user's cache, nor waits for ten minutes for a server that does not answer.
os.environ["LSSTCUTOUTS_CACHE"] = "off"
os.environ["LSSTCUTOUTS_PATIENCE"] = "5"


def pytest_configure() -> None:
    """Begin as a shell's foreground process does, and let the fork server of worker processes load once what they need."""
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A server that starts without them, for torch's own loaders, costs each worker process 5 s of CPU.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [
            "lsstcutouts.loader.fork_server",
            "torch",
            "lightning.pytorch",
            "lsstcutouts.loader.loader",
            "lsstcutouts.loader.datamodule.module",
        ]
    )


SLOW = ("slow or hypothesis", "(slow or hypothesis) and not long")
"""Of the option ``-m``: only the slow tests."""

SLOW_WORDS = ("slow", "hypothesis", "given")
"""A file with slow tests has one of these."""


def may_be_slow(path: Path) -> bool:
    """Return whether a file of tests may hold slow ones."""
    text = path.read_text(encoding="utf-8")
    return any(word in text for word in SLOW_WORDS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without slow tests where only these run: each process would import them all."""
    only_slow = config.option.markexpr in SLOW and collection_path.name.startswith("test_")
    return True if only_slow and collection_path.is_file() and not may_be_slow(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it needs, and put those first that take longest."""
    for item in items:
        assert isinstance(item, pytest.Function)
        item.add_marker(kind_of(item))
        if item.get_closest_marker("slow") or hasattr(item.obj, "hypothesis"):
            assert may_be_slow(item.path), f"{item.path}: `make slow` would leave it out; see SLOW_WORDS"
    order = ("system", "repo", "unit")
    items.sort(
        key=lambda item: ("slow" not in item.keywords, order.index(next(k for k in order if k in item.keywords)))
    )


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through torch's modules and the tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unchanged_repositories() -> Iterator[None]:
    """Fail when a test changed a shared repository."""
    yield
    changed = changed_repositories()
    assert not changed, f"a test changed {changed}: let it use simulated_copy or copied"


@pytest.fixture(scope="session")
def dp2_repo() -> SimulatedRepository:
    """Patches 8, 9, 13 and 14 in g, r and i, as lossy DP2 cell coadds; no g in patch 8, no i in patch 14."""
    return simulated_once(SimulationConfig(release="dp2", **SMALL))


@pytest.fixture(scope="session")
def dp1_repo() -> SimulatedRepository:
    """The same patches and bands as DP1 exposures."""
    return simulated_once(SimulationConfig(release="dp1", **SMALL))
