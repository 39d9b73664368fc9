"""The cache of simulated repositories that test processes share: what one does never breaks what another reads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lsstcutouts.testing import SimulationConfig

from ..support import repositories
from ..support.repositories import changed_repositories, simulated_once

CONFIG = SimulationConfig(cells=1, cell=20, grid=(1, 1), patches=1, bands="g", targets=1, missing=())

READER = """
from tests.project.test_repositories import CONFIG, simulated_once
root = simulated_once(CONFIG).root
print(root, flush=True)
input()
print(sum(len(path.read_bytes()) for path in root.rglob("*.fits")))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for this process and those that it starts."""
    folder = tmp_path / "lsstcutouts-tests"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(repositories, "FOLDER", folder)
    monkeypatch.setattr(repositories, "_taken", {})
    monkeypatch.setattr(repositories, "_contents_before", {})
    yield folder
    forget()


def forget() -> None:
    """Let this process be as one that has just started."""
    for _, file in repositories._taken.values():
        os.close(file)
    repositories._taken.clear()
    repositories._contents_before.clear()


@contextmanager
def reading() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Start a process that takes the repository and reads its files when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
        process.kill()


@pytest.mark.usefixtures("cache")
def test_a_changed_repository_stays_for_those_who_read_it() -> None:
    with reading() as (theirs, process):
        root = simulated_once(CONFIG).root
        assert root == theirs
        assert simulated_once(CONFIG).root == root
        assert not changed_repositories()
        size = sum(path.stat().st_size for path in root.rglob("*.fits"))
        (root / "more").touch()
        assert changed_repositories() == changed_repositories() == [root]
        forget()
        another = simulated_once(CONFIG).root  # removes what nobody uses
        assert another != root
        assert not (another / "more").exists()
        assert process.communicate("\n")[0] == f"{size}\n"
    forget()
    assert simulated_once(CONFIG).root == another
    assert not root.parent.exists()
    assert sorted(path.name for path in another.parents[1].iterdir()) == sorted(["current", another.parent.name])


def test_other_versions_are_removed_when_nobody_has_used_them_for_long(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins(days: int) -> None:
        """Begin a run so many days after the other version was taken."""
        then = root.stat().st_mtime - days * 86400
        os.utime(root.parent / "lock", (then, then))
        forget()
        simulated_once(CONFIG)

    with reading() as (root, process):
        monkeypatch.setattr(repositories, "_writers_hash", lambda: "0" * 16)
        begins(15)
        assert root.is_dir()  # a process uses it
        process.communicate("\n")
    begins(13)
    assert root.is_dir()
    begins(15)
    assert not root.is_dir()
    assert [path.name for path in cache.glob("*/*/current")] == ["current"]
