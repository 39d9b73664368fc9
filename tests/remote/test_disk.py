"""Bytes that were read once come from the disk cache: in a second epoch, after a restart, in other processes, without network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lsstcutouts import CutoutPlan
from lsstcutouts.read.cache.budget import parse_bytes
from lsstcutouts.source.disk.claims import Claims
from lsstcutouts.source.disk.disk_cache import DiskCache
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform, Published
from ..support.remote import MASKED, dataset_of, epoch, local_plan, remote_plan, same

PLANES: dict[str, Any] = {"planes": ("image", "variance", "mask", "psf"), "read": MASKED}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def local(remote_dp2: Published) -> dict[int, dict[str, Any]]:
    return epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth), **PLANES))


def figures(platform: Platform) -> tuple[int, int]:
    """Return data requests and signatures."""
    counters = platform.counters()
    return counters.data_requests, counters.signatures


@pytest.mark.usefixtures("folder")
def test_a_second_epoch_asks_for_nothing(
    platform: Platform, remote_dp2: Published, local: dict[int, dict[str, Any]]
) -> None:
    """Tiles and indices come from the disk, in a dataset that has neither in memory."""
    plan = remote_plan(remote_dp2)
    assert same(epoch(dataset_of(plan, **PLANES)), local)
    forget_bytes()
    platform.reset()
    platform.set(token_revoked=True)
    assert same(epoch(dataset_of(plan, **PLANES)), local)
    assert figures(platform) == (0, 0)


READER = """
import json, sys
from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan, ReadOptions
dataset = CutoutDataset(CutoutPlan.load(sys.argv[1]), batch_size=9, cache_bytes="100 MB", seed=5)
sums = {}
if __name__ == "__main__":
    for batch in CutoutLoader(dataset, num_workers=int(sys.argv[2])):
        for i, image in zip(batch["object_id"].tolist(), batch["image"].double().nan_to_num().sum((1, 2, 3)).tolist()):
            sums[i] = image
    print(json.dumps(sums))
"""


def read_in_another_process(
    platform: Platform, folder: Path, plan: Path, workers: int = 0, **variables: str
) -> dict[int, float]:
    """Return the sum of each image, read by a process of its own."""
    more = {"LSSTCUTOUTS_CACHE": str(folder), "LSSTCUTOUTS_TOKEN_HOSTS": "127.0.0.1", **variables}
    command = [sys.executable, "-c", READER, str(plan), str(workers)]
    out = subprocess.run(
        command, env=platform.environment(**more), capture_output=True, text=True, check=True, timeout=120
    )
    return {int(name): value for name, value in json.loads(out.stdout).items()}


def test_another_process_asks_for_nothing(
    platform: Platform, remote_dp2: Published, folder: Path, tmp_path: Path
) -> None:
    """It needs no token and no network."""
    plan = remote_plan(remote_dp2)
    plan.save(tmp_path / "plan.parquet")
    here = epoch(dataset_of(plan))
    platform.reset()
    platform.set(away=1000.0)
    found = read_in_another_process(platform, folder, tmp_path / "plan.parquet", BUTLER_RUBIN_ACCESS_TOKEN="")
    assert found.keys() == here.keys()
    for object_id, total in found.items():
        assert total == pytest.approx(here[object_id]["image"].astype(float).sum(), rel=1e-6)


def test_worker_processes_share_what_they_read(
    platform: Platform, remote_dp2: Published, folder: Path, local: dict[int, dict[str, Any]]
) -> None:
    """What one of them is fetching, the other does not fetch as well."""
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan, **PLANES))
    alone = platform.counters().data_bytes
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    forget_bytes()
    platform.reset()
    platform.set(rtt=0.02)
    assert same(epoch(dataset_of(plan, **PLANES), workers=2), local)
    assert platform.counters().data_bytes <= 1.15 * alone


def test_a_budget_that_is_too_small(
    platform: Platform,
    remote_dp2: Published,
    folder: Path,
    local: dict[int, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "2 MB")
    plan = remote_plan(remote_dp2)
    for _ in range(2):
        forget_bytes()
        assert same(epoch(dataset_of(plan, **PLANES)), local)
        held = sum(path.stat().st_size for path in folder.rglob("*.seg"))
        assert held <= parse_bytes("2 MB") + parse_bytes("1.1 MB")


def test_a_flipped_byte_is_fetched_again(
    platform: Platform, remote_dp2: Published, folder: Path, local: dict[int, dict[str, Any]]
) -> None:
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan, **PLANES))
    for path in folder.rglob("*.seg"):
        with path.open("r+b") as file:
            for place in range(path.stat().st_size // 16, path.stat().st_size, path.stat().st_size // 8):
                file.seek(place)  # several: some lie between the tiles that are needed
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 0xFF]))
    forget_bytes()
    platform.reset()
    assert same(epoch(dataset_of(plan, **PLANES)), local)
    assert 0 < platform.counters().data_bytes < 1_000_000
    cache = DiskCache.of_process()
    assert cache is not None
    assert cache.figures().damaged >= 1


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    platform: Platform,
    remote_dp2: Published,
    tmp_path: Path,
    local: dict[int, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "file" / "cache"))
    assert platform.counters().data_requests == 0
    plan = remote_plan(remote_dp2)
    assert same(epoch(dataset_of(plan, **PLANES)), local)
    assert sum("cache" in record.message for record in caplog.records if record.levelname == "WARNING") == 1


@pytest.mark.usefixtures("folder")
def test_planning_leaves_the_headers_that_it_read(platform: Platform, remote_dp2: Published, tmp_path: Path) -> None:
    """A plan that was saved and loaded asks for fewer headers than there are files."""
    plan = remote_plan(remote_dp2)
    plan.save(tmp_path / "plan.parquet")
    loaded = CutoutPlan.load(tmp_path / "plan.parquet")
    epoch(dataset_of(loaded))
    assert platform.counters().signatures <= len(plan.files) + 2


@pytest.mark.usefixtures("folder")
def test_a_fault_of_the_cache_is_raised_and_nobody_waits_for_ever(
    remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Claims, "of_others", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        epoch(dataset_of(remote_plan(remote_dp2)))
