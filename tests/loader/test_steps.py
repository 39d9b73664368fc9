"""Transforms as the data module runs them: where the batch is, in place where that is safe, compiled on request."""

import pickle
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from lsstcutouts.loader.datamodule.steps import DeviceSteps, compiles_on
from lsstcutouts.transforms import AsinhStretch, Compose, RandomD4

from ..transforms.test_planes import batch_of

RTOL, ATOL = 1e-5, 1e-6
"""Of compiled against eager stretches, whose asinh is another one; turning is exact."""

has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")


def full_batch(count: int, **changes) -> dict:
    wcs = torch.rand(count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    return {**batch_of(count, **changes), "wcs": wcs, "kind": ["lens"] * count}


def test_on_the_cpu_the_batch_that_came_in_is_left_alone() -> None:
    batch, stretch = full_batch(8), AsinhStretch(5.0)
    DeviceSteps().run(batch, [Compose([stretch, nn.Identity()])])
    assert torch.equal(batch["image"], batch_of(8)["image"])
    assert not stretch.inplace


def test_elsewhere_the_image_is_overwritten_for_the_time_of_the_call() -> None:
    """The meta device stands for a GPU: it has no values, but memory of its own."""
    stretch, chosen, seen = AsinhStretch(5.0), AsinhStretch(5.0, inplace=True), []

    class Spy(nn.Module):
        def forward(self, batch):
            seen.append((stretch.inplace, chosen.inplace))
            return batch

    batch = {k: v.to("meta") for k, v in batch_of(8).items()}
    result = DeviceSteps().run(batch, [Compose([stretch, chosen]), Spy()])
    assert result["image"] is batch["image"]
    assert seen == [(True, True)]
    assert (stretch.inplace, chosen.inplace) == (False, True)


def test_what_validation_moved_can_be_written_to_in_training() -> None:
    """Tensors made in inference mode cannot; Lightning validates in it, and before it trains."""
    turn, steps = RandomD4(), DeviceSteps()
    with torch.inference_mode():
        steps.run({k: v.to("meta") for k, v in batch_of(8).items()}, [turn])
    assert turn.epoch.device.type == "meta"
    turn.set_epoch(3)


def test_modules_that_come_later_move_too() -> None:
    steps, first, later = DeviceSteps(), AsinhStretch(5.0), RandomD4()
    steps.run({k: v.to("meta") for k, v in batch_of(8).items()}, [first])
    steps.run({k: v.to("meta") for k, v in batch_of(8).items()}, [first, later])
    assert first.scale.device.type == later.epoch.device.type == "meta"
    steps.run({k: v.to("cpu") for k, v in batch_of(8).items()}, [AsinhStretch(5.0)])
    first.to_empty(device="cpu")  # somebody else moves it
    steps.run({k: v.to("meta") for k, v in batch_of(8).items()}, [first])
    assert first.scale.device.type == "meta"


@has_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiled_equals_eager_and_is_compiled_once() -> None:
    """For batches of every length, the last one of an epoch included, in every epoch, without a graph break."""
    torch.compiler.reset()
    counters.clear()
    modules = [AsinhStretch([5.0, 10.0]), RandomD4(seed=1)]
    compiled, eager = DeviceSteps(compile=True), DeviceSteps()
    for epoch, count in ((0, 16), (0, 16), (0, 7), (1, 16), (1, 5), (2, 64)):
        modules[1].set_epoch(epoch)
        found, wanted = compiled.run(full_batch(count), modules), eager.run(full_batch(count), modules)
        assert found.keys() == wanted.keys()
        assert found["kind"] == wanted["kind"]
        torch.testing.assert_close(found["image"], wanted["image"], rtol=RTOL, atol=ATOL)
        for name in ("valid", "variance", "offset", "wcs", "object_id"):
            assert torch.equal(found[name], wanted[name]), name
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_old_gpus_run_eager_and_it_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    device = torch.device("cuda", 0)
    assert compiles_on(torch.device("cpu"))
    assert compiles_on(device, (7, 0))
    assert not caplog.records
    assert not compiles_on(device, (6, 1))
    assert "needs a GPU of compute capability 7.0, this GPU has 6.1" in caplog.text
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    steps = DeviceSteps(compile=True)
    assert [steps._compiles_on(device) for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1


def test_steps_pickle_as_their_settings() -> None:
    steps = DeviceSteps(compile=True)
    steps.run(full_batch(3), [])
    again = pickle.loads(pickle.dumps(steps))
    assert again._compile
    assert not again._compiled
