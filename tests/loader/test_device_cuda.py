"""What needs a GPU. Skipped where there is none, unless ``LSSTCUTOUTS_CUDA=require`` says that there must be one."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from benchmarks.device import measure_device
from lsstcutouts import ReadOptions, TransferOptions
from lsstcutouts.app.callbacks import WorstPredictions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.capability import BFLOAT16_FROM, can_compile
from lsstcutouts.loader.datamodule.steps import DeviceSteps
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.tensors import pinned_empty
from lsstcutouts.loader.device.transfer import CudaTransfer
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AsinhStretch, RandomD4, random_keys

from ..transforms.test_planes import batch_of
from .test_module import Watcher, data_of, plain_epochs, trainer_of

pytestmark = pytest.mark.cuda

RTOL, ATOL = 1e-5, 1e-6
"""Of CPU against CUDA: asinh is another one there. Copies, the wire and turning are exact."""

LONG = 200_000_000
"""Cycles that keep a stream busy for about a tenth of a second."""


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        if os.environ.get("LSSTCUTOUTS_CUDA") == "require":
            pytest.fail("LSSTCUTOUTS_CUDA=require, but torch sees no CUDA device")
        pytest.skip("needs an NVIDIA GPU")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32, columns=("label", "kind"))


def loader_of(plan: CutoutPlan, dataset=None, /, **settings) -> CutoutLoader:
    arguments = {"batch_size": 9, "cache_bytes": "100 MB", "threads": 2, "seed": 5, **(dataset or {})}
    return CutoutLoader(CutoutDataset(plan, **arguments), **settings)


PLANES = {"planes": ("image", "variance", "valid")}


def assert_same(host, on_device, device: torch.device) -> None:
    assert host.keys() == on_device.keys()
    for name, value in host.items():
        if isinstance(value, list):
            assert value == on_device[name]
        else:
            assert on_device[name].device == device
            assert torch.equal(value, on_device[name].cpu()), name


def test_pinned_memory_is_used_again_and_its_tensor_is_known() -> None:
    array = pinned_empty((3, 4), np.float32)
    assert torch.from_numpy(array).is_pinned()
    assert array.base.is_pinned()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_batches_in_host_memory_are_pinned(plan: CutoutPlan, workers: int, wire: str) -> None:
    plain = loader_of(plan, PLANES, pin_memory=False, transfer=TransferOptions(wire=wire))
    for batch, wanted in zip(
        loader_of(plan, PLANES, num_workers=workers, transfer=TransferOptions(wire=wire)), plain, strict=True
    ):
        assert all(v.is_pinned() for v in batch.values() if isinstance(v, torch.Tensor))
        assert not wanted["image"].is_pinned()
        assert_same(wanted, batch, torch.device("cpu"))


def test_shortened_batches_are_pinned_and_right(plan: CutoutPlan, gpu: torch.device) -> None:
    skip = {**PLANES, "read": ReadOptions(missing_band="skip")}
    plain = list(loader_of(plan, skip, pin_memory=False))
    assert any(len(b["object_id"]) < 9 for b in plain[:-1])
    for wanted, pinned, brought in zip(plain, loader_of(plan, skip), loader_of(plan, skip, device=gpu), strict=True):
        assert pinned["image"].is_pinned()
        assert_same(wanted, pinned, torch.device("cpu"))
        assert_same(wanted, brought, gpu)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_device_has_what_the_host_has(
    plan: CutoutPlan, gpu: torch.device, workers: int, wire: str, channels_last: bool
) -> None:
    if wire == "bfloat16" and torch.cuda.get_device_capability(gpu) < BFLOAT16_FROM:
        with pytest.raises(ConfigurationError, match="bfloat16"):
            loader_of(plan, device=gpu, transfer=TransferOptions(wire=wire))
        return
    loader = loader_of(
        plan, PLANES, device=gpu, num_workers=workers, transfer=TransferOptions(wire=wire, channels_last=channels_last)
    )
    host = loader_of(plan, PLANES, pin_memory=False, transfer=TransferOptions(wire=wire, channels_last=channels_last))
    for number, (wanted, batch) in enumerate(zip(host, loader, strict=True)):
        assert loader.position.batch == number + 1
        assert_same(wanted, batch, gpu)
        assert batch["image"].stride() == wanted["image"].stride()


def test_a_loop_on_the_device_goes_on_where_it_was(plan: CutoutPlan) -> None:
    whole = [b["object_id"].tolist() for b in loader_of(plan)]
    loader = loader_of(plan, device="cuda")
    passing = iter(loader)
    seen = [next(passing)["object_id"].tolist() for _ in range(3)]
    resumed = loader_of(plan, device="cuda")
    resumed.load_state_dict(loader.state_dict())
    assert seen + [b["object_id"].tolist() for b in resumed] == whole


def test_nothing_is_overwritten_while_copies_are_under_way(plan: CutoutPlan, gpu: torch.device) -> None:
    """The loop's stream lags far behind: every batch is used after several others have been copied and freed."""
    wanted = [b["image"].double().sum(dim=(1, 2, 3)) for b in loader_of(plan)]
    sums = []
    for _ in range(2):
        for batch in loader_of(plan, device=gpu):
            torch.cuda._sleep(LONG)
            sums.append(batch["image"].double().sum(dim=(1, 2, 3)))
            del batch
    for found, right in zip(sums, [*wanted, *wanted], strict=True):
        torch.testing.assert_close(found.cpu(), right, rtol=1e-9, atol=1e-6)


def test_kept_batches_stay_as_they_were(plan: CutoutPlan, gpu: torch.device) -> None:
    kept = [batch for _ in range(2) for batch in loader_of(plan, PLANES, device=gpu)]
    again = [batch for _ in range(2) for batch in loader_of(plan, PLANES, pin_memory=False)]
    for wanted, batch in zip(again, kept, strict=True):
        assert_same(wanted, batch, gpu)


def test_host_memory_stays_until_a_slow_copy_is_over(gpu: torch.device) -> None:
    """The pinned batches are gone from the host's view while their copies still wait behind a long kernel."""
    transfer, arrivals = CudaTransfer(gpu), []
    with torch.cuda.stream(transfer._stream):
        torch.cuda._sleep(10 * LONG)
    for number in range(8):
        array = pinned_empty((64, 6, 64, 64), np.float32)
        array.fill(number)
        arrivals.append(transfer.begin({"image": array.base}))
        del array
    for number, arrive in enumerate(arrivals):
        assert (arrive()["image"] == number).all()


def test_the_copy_does_not_wait_for_what_the_loop_computes(gpu: torch.device) -> None:
    transfer = CudaTransfer(gpu)
    array = pinned_empty((8, 6, 64, 64), np.float32)
    transfer.begin({"image": array.base})()  # memory of the device is there from here on; to get some can wait
    torch.cuda.synchronize()
    busy, done = torch.cuda.Event(), torch.cuda.Event()
    torch.cuda._sleep(10 * LONG)
    busy.record()
    transfer.begin({"image": array.base})
    done.record(transfer._stream)
    done.synchronize()
    assert not busy.query()
    torch.cuda.synchronize()


def test_transforms_are_the_same_on_the_device(gpu: torch.device) -> None:
    modules = [AsinhStretch([5.0, 10.0]), RandomD4(seed=1)]
    batch = {**batch_of(), "wcs": torch.rand(64, 8, dtype=torch.float64), "kind": ["lens"] * 64}
    wanted = DeviceSteps().run(batch, modules)
    copied = {k: v.to(gpu) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    image: Any = copied["image"]
    found = DeviceSteps().run(copied, modules)
    assert image.abs().max() < 20  # written in place
    torch.testing.assert_close(found["image"].cpu(), wanted["image"], rtol=RTOL, atol=ATOL)
    for name in ("valid", "variance", "offset", "wcs", "object_id"):
        assert torch.equal(found[name].cpu(), wanted[name]), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own code
def test_compiled_transforms_are_the_same_on_the_device(gpu: torch.device, caplog) -> None:
    """Also on a GPU that is too old for it: there they run as they are, and that is said."""
    torch.compiler.reset()
    modules, compiled = [AsinhStretch([5.0, 10.0]), RandomD4(seed=1)], DeviceSteps(compile=True)
    for epoch, count in ((0, 64), (1, 64), (1, 17)):
        modules[1].set_epoch(epoch)
        batch = {k: v.to(gpu) for k, v in batch_of(count).items()}
        wanted = DeviceSteps().run({k: v.clone() for k, v in batch.items()}, modules)
        found = compiled.run(batch, modules)
        torch.testing.assert_close(found["image"], wanted["image"], rtol=RTOL, atol=ATOL)
        assert torch.equal(found["offset"], wanted["offset"])
    assert bool(compiled._compiled) is can_compile(torch.cuda.get_device_capability(gpu))
    assert ("compile=True has no effect" in caplog.text) is not bool(compiled._compiled)


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_a_training_gets_its_batches_on_the_gpu(
    dp2_repo: SimulatedRepository, tmp_path: Path, gpu: torch.device, wire: str
) -> None:
    model, moved = Watcher(), []

    class Spy(L.Callback):
        def on_train_batch_start(self, trainer, *_) -> None:
            moved.append(trainer.datamodule.loaders["train"].device)

    data = data_of(
        dp2_repo,
        transforms=AsinhStretch(10.0),
        augmentations=RandomD4(),
        transfer=TransferOptions(wire=wire, channels_last=True),
    )
    trainer = trainer_of(tmp_path, accelerator="gpu", callbacks=[Spy()])
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    assert model.seen["train"] == plain_epochs(dp2_repo, 3)
    assert set(moved) == {gpu}
    assert {loader.device for loader in data.loaders.values()} == {gpu}
    assert all(image.device == gpu for image in model.images)


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_a_training_on_the_cpu_leaves_the_gpu_alone(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data, model = data_of(dp2_repo), Watcher()
    trainer_of(tmp_path, max_epochs=1).fit(model, data)
    assert not any(image.is_pinned() for image in model.images)


def test_the_benchmark_measures(plan: CutoutPlan, gpu: torch.device) -> None:
    result = measure_device(
        lambda device: loader_of(plan, device=device),
        gpu,
        models={"small": (8, 16)},
        repeats=3,
        copies=10,
        steps=20,
    )
    assert result["batch_bytes"] > 9 * 3 * 32 * 32 * 4
    assert 0 < result["prefetch_over_pinned_copy"] < 2
    training = result["training"]["small"]
    assert training["steps"] == 18
    assert 0 <= training["idle"] <= 1
    assert 0 < training["computing"] <= training["seconds"]


def test_ids_beyond_int64(gpu: torch.device, dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """torch takes no rows of uint64 on CUDA; choices and pictures of mistakes need them."""
    truth = Catalog.from_any(dp2_repo.truth, columns=("label",))
    ids = 2**64 - 1 - np.arange(len(truth), dtype=np.uint64)
    catalog = Catalog.from_arrays(truth.ra, truth.dec, ids, truth.columns)
    on_gpu = torch.from_numpy(ids).to(gpu)
    assert random_keys(on_gpu, 1, 2).tolist() == random_keys(torch.from_numpy(ids), 1, 2).tolist()
    data = data_of(dp2_repo, catalog=catalog, columns=("label",), augmentations=RandomD4())
    trainer = trainer_of(tmp_path, max_epochs=1, accelerator="gpu", callbacks=[WorstPredictions(tmp_path, count=3)])
    trainer.fit(LensClassifier(LensFinder("gri", widths=(4,))), data)
    assert (tmp_path / "worst-0001.png").exists()
