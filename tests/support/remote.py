"""What tests of remote repositories share: plans of both sides, epochs by object, rounds of requests."""

import pickle
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lsstcutouts import CutoutDataset, CutoutLoader, ReadOptions, build_plan
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.source.web.process import forget_bytes

from .platform.science_platform import Published
from .platform.settings import Request

__all__ = ["MASKED", "arrays_of", "dataset_of", "epoch", "local_plan", "remote_plan", "rounds", "same"]

MASKED = ReadOptions(mask_planes=("DETECTED", "NO_DATA"))


@cache
def local_plan(root: Path, collections: str, truth: Path) -> CutoutPlan:
    """Return a plan of the repository on disk."""
    return build_plan(root, truth, collections=collections, bands="gri", size=32)


_plans: dict[str, bytes] = {}


def remote_plan(remote: Published) -> CutoutPlan:
    """Return a plan of the repository behind the server, made once; nothing of its files is in memory."""
    if remote.url not in _plans:
        plan = build_plan(remote.url, remote.local.truth, collections=remote.collections, bands="gri", size=32)
        _plans[remote.url] = pickle.dumps(plan)
    forget_bytes()
    plan = pickle.loads(_plans[remote.url])
    assert isinstance(plan, CutoutPlan)
    return plan


def dataset_of(plan: CutoutPlan, **changes: Any) -> CutoutDataset:
    return CutoutDataset(plan, **{"batch_size": 9, "cache_bytes": "100 MB", "threads": 2, "seed": 5, **changes})


def epoch(dataset: CutoutDataset, workers: int = 0) -> dict[int, dict[str, Any]]:
    """Return all arrays of an epoch by object."""
    return arrays_of(CutoutLoader(dataset, num_workers=workers))


def arrays_of(batches: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the arrays of batches by object."""
    found = {}
    for batch in batches:
        plain = {name: values for name, values in batch.items() if name != "object_id"}
        for i, object_id in enumerate(batch["object_id"].tolist()):
            found[object_id] = {name: np.asarray(values[i]) for name, values in plain.items()}
    return found


def same(found: dict[int, dict[str, Any]], expected: dict[int, dict[str, Any]]) -> bool:
    """Fail where two epochs differ; returns True."""
    assert found.keys() == expected.keys()
    for object_id, arrays in expected.items():
        assert found[object_id].keys() == arrays.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[object_id][name], values, err_msg=f"{name} of {object_id}")
    return True


def rounds(requests: Iterable[Request]) -> int:
    """Return how many requests had to wait for another one to end: the most that do not overlap in time."""
    count, until = 0, 0.0
    for request in sorted(requests, key=lambda one: one.time + one.seconds):
        if request.time >= until:
            count, until = count + 1, request.time + request.seconds
    return count
