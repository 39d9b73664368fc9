"""The loader with batches brought to a device, the CPU standing in for it; `test_device_cuda` has the real one."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lsstcutouts.app.benchmark.measured import BenchmarkSettings
from lsstcutouts.app.benchmark.run import benchmark
from lsstcutouts.errors import ConfigurationError, MissingFileError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.transfer import DirectTransfer
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.loader.transfer_options import TransferOptions
from lsstcutouts.order.sampling import Sampling
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.read_options import ReadOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32, columns=("label", "kind"))


def loader_of(plan: CutoutPlan, dataset=None, /, *, direct: bool = False, **settings) -> CutoutLoader:
    arguments = {"batch_size": 9, "cache_bytes": "100 MB", "threads": 2, "seed": 5, **(dataset or {})}
    loader = CutoutLoader(CutoutDataset(plan, **arguments), **settings)
    if direct:
        loader.mover = DirectTransfer(torch.device("cpu"), channels_last=loader.transfer.channels_last)
    return loader


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = value == other[name] if isinstance(value, list) else torch.equal(value, other[name])
        assert same, name


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_batches_come_through_a_transfer_as_without_one(plan: CutoutPlan, workers: int, wire: str) -> None:
    planes = {"planes": ("image", "variance", "valid")}
    options = TransferOptions(wire=wire, channels_last=True)
    plain = list(loader_of(plan, planes, transfer=options))
    brought = loader_of(plan, planes, transfer=options, direct=True, num_workers=workers)
    for one, other in zip(plain, brought, strict=True):
        assert_same(one, other)
        assert other["image"].dtype == other["variance"].dtype == torch.float32
        assert other["image"].is_contiguous(memory_format=torch.channels_last)
    assert brought.position.batch == len(brought)


@pytest.mark.parametrize(("wire", "bound"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_the_wire_keeps_to_its_bound(plan: CutoutPlan, wire: str, bound: float) -> None:
    planes = {"planes": ("image", "variance"), "read": ReadOptions(missing_band="nan")}
    for exact, sent in zip(
        loader_of(plan, planes), loader_of(plan, planes, transfer=TransferOptions(wire=wire)), strict=True
    ):
        for name in ("image", "variance"):
            wanted, found = exact[name].double(), sent[name].double()
            special = ~wanted.isfinite() | (wanted == 0)  # variance is infinite where there is no data
            torch.testing.assert_close(found[special], wanted[special], rtol=0, atol=0, equal_nan=True)
            assert ((found - wanted).abs() <= bound * wanted.abs())[~special].all()
        assert not torch.equal(exact["image"].nan_to_num(), sent["image"].nan_to_num())


def test_what_is_ahead_does_not_count(plan: CutoutPlan) -> None:
    loader = loader_of(plan, direct=True)
    passing = iter(loader)
    for number in range(1, 4):
        batch = next(passing)
        assert loader.position.batch == number
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, number)
        assert loader.report.as_dict()["outcomes"] == {
            "delivered": number * len(batch["object_id"]),
            "not_read": len(plan) - number * len(batch["object_id"]),
        }


def test_a_loop_goes_on_where_it_was_although_a_batch_was_ahead(plan: CutoutPlan) -> None:
    whole = loader_of(plan)
    order = [torch.cat([b["object_id"] for b in whole]).tolist() for _ in range(2)]
    loader = loader_of(plan, direct=True)
    passing = iter(loader)
    seen = [i for _ in range(3) for i in next(passing)["object_id"].tolist()]
    state = loader.state_dict()
    for resumed in (loader, loader_of(plan, direct=True)):
        resumed.load_state_dict(state)
        assert seen + [i for b in resumed for i in b["object_id"].tolist()] == order[0]
        assert [i for b in resumed for i in b["object_id"].tolist()] == order[1]
        assert resumed.position == (1, len(resumed))


def test_an_error_ahead_is_raised_after_the_good_batches(plan: CutoutPlan, tmp_path) -> None:
    """With and without a transfer the same batches come before the error."""
    uris = tuple(str(tmp_path / "gone.fits") if i == 4 else uri for i, uri in enumerate(plan.files.uri))
    files = type(plan.files)(uris, plan.files.size, plan.files.dataset_id)
    broken = CutoutPlan(**{**plan.__dict__, "files": files})
    good = []
    for transfer in (False, True):
        loader, seen = loader_of(broken, {"sampling": Sampling(shuffle=False)}, direct=transfer), []
        with pytest.raises(MissingFileError, match=r"gone\.fits"):
            seen.extend(batch["object_id"].tolist() for batch in loader)
        assert loader.position.batch == len(seen)
        good.append(seen)
    assert good[0] == good[1]
    assert good[0]


@pytest.mark.parametrize("transfer", [False, True])
def test_a_batch_that_was_handed_out_is_never_overwritten(plan: CutoutPlan, transfer: bool) -> None:
    loader = loader_of(plan, {"planes": ("image", "variance", "valid")}, direct=transfer)
    kept = [batch for _ in range(2) for batch in loader]
    number = {object_id: i for i, object_id in enumerate(plan.object_id.tolist())}
    fresh = CutoutReader(plan, loader.cutouts.options)
    for batch in kept:
        again = fresh.read(np.array([number[i] for i in batch["object_id"].tolist()]))
        for name in ("image", "variance", "valid", "ra", "wcs"):
            np.testing.assert_array_equal(batch[name].numpy(), again[name])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_cuda_nothing_is_pinned_and_nothing_is_said(plan: CutoutPlan) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pin_memory in (None, True, False):
            loader = loader_of(plan, pin_memory=pin_memory, device="cpu")
            assert not next(iter(loader))["image"].is_pinned()
            assert loader.mover is None
    with pytest.raises(ConfigurationError, match="sees no CUDA"):
        loader_of(plan, device="cuda")


def test_page_locked_batches_count_against_the_budget(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary memory stands in for page-locked one, which only a machine with a GPU has."""

    def ordinary(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()

    monkeypatch.setattr("lsstcutouts.loader.dataset.pinned_empty", ordinary)
    dataset = CutoutDataset(plan, cache_bytes="100 MB")
    array = dataset._reserved_pinned((4, 3, 32, 32), np.float32)
    assert dataset.cache.stats().reserved == array.nbytes
    row = torch.from_numpy(array)[2]
    del array
    assert dataset.cache.stats().reserved == 4 * 3 * 32 * 32 * 4
    del row
    assert dataset.cache.stats().reserved == 0


def test_the_benchmark_of_a_gpu_says_where_there_is_none(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    settings = BenchmarkSettings(output=str(tmp_path), demo=str(dp2_repo.root), device="cuda", targets=10)
    with pytest.raises(ConfigurationError, match="sees no CUDA device"):
        benchmark(settings)
