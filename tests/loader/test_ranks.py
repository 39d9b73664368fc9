"""Real processes of two and four ranks: started by torchrun, by Lightning, and as nodes of a scheduler."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from ..support import ranks
from ..support.processes import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan_file(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.parquet"
    build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="g", size=16).save(path)
    return path


def results(out: Path, world: int) -> list[dict[str, Any]]:
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]


def epochs(fits: list[dict[str, Any]]) -> dict[int, list[list[list[int]]]]:
    """Return epoch, rank, step to the ids."""
    found: dict[int, list[list[list[int]]]] = {}
    for rank, fit in enumerate(fits):
        for epoch, ids in fit["train"]:
            found.setdefault(epoch, [[] for _ in fits])[rank].append(ids)
    return found


def flat(ranks_of: list[list[list[int]]]) -> list[int]:
    return [i for steps in ranks_of for ids in steps for i in ids]


def check(found: list[dict[str, Any]], name: str, *, whole: bool) -> None:
    """Equal numbers of steps; no target twice; none lost but less than one a rank, another one each epoch."""
    fits, world, train = [f["fits"][name] for f in found], len(found), set(found[0]["train"])
    for of_rank in epochs(fits).values():
        assert len({len(steps) for steps in of_rank}) == 1
        ids = flat(of_rank)
        assert len(ids) == len(set(ids))
        assert set(ids) <= train
        if whole:
            assert len(train - set(ids)) < world
    val = set(found[0]["val"])
    for number in range(len(fits[0]["val"])):
        ids = [i for fit in fits for i in fit["val"][number]]
        assert len(ids) == len(set(ids))
        assert set(ids) <= val
        if whole and not name.startswith("batches"):
            assert set(ids) == val
            expected = np.mean([i % 97 for i in val])
            assert [fit["logged"][number] for fit in fits] == pytest.approx([expected] * world)


def check_all(found: list[dict[str, Any]]) -> None:
    names = list(found[0]["fits"])
    for name in names:
        check(found, name, whole=name in {"plain", "reloaded", "accumulated"} or name.startswith("batches"))
    of = {name: epochs([f["fits"][name] for f in found]) for name in names}
    plain = of["plain"]
    assert plain[0] != plain[1]
    assert of["reloaded"] == of["accumulated"] == plain
    steps = len(plain[0][0])
    for name, few in (("limited", 3), ("half", steps // 2)):
        assert of[name] == {e: [s[:few] for s in of_rank] for e, of_rank in plain.items()}
    assert of["development"] == {0: [s[:1] for s in plain[0]]}
    assert of["overfitted"][0] == of["overfitted"][1]
    assert [len(s) for s in of["overfitted"][0]] == [2] * len(found)
    checked = [i for f in found for i in f["fits"]["plain"]["checked"]]
    assert len(checked) == len(set(checked)) == min(16, len(found[0]["val"]))
    assert any(name.startswith("batches") for name in names)


@pytest.mark.parametrize(("world", "start"), [(2, "torchrun"), (4, "forks")])
def test_ranks_of_torchrun_share_each_epoch(plan_file: Path, tmp_path: Path, world: int, start: str) -> None:
    arguments = ["--plan", str(plan_file), "--out", str(tmp_path), "--devices", str(world)]
    if start == "torchrun":
        ranks.run(ranks.torchrun_command(world, "tests.support.parallel", arguments), env=ranks.environment())
    else:
        run_ranks("tests.support.parallel", arguments, world)
    found = results(tmp_path, world)
    assert found[0]["environment"] == "TorchElasticEnvironment"
    check_all(found)


def test_ranks_that_lightning_starts_share_each_epoch(plan_file: Path, tmp_path: Path) -> None:
    arguments = ["--plan", str(plan_file), "--out", str(tmp_path), "--devices", "2", "--fits", "plain", "overfitted"]
    ranks.run([sys.executable, "-m", "tests.support.parallel", *arguments], env=ranks.environment())
    found = results(tmp_path, 2)
    assert found[0]["environment"] == "LightningEnvironment"
    check(found, "plain", whole=True)
