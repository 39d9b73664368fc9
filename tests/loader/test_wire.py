"""Types on the wire, copies ahead of the loop, and what a GPU can do, all without one."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.capability import can_compile, check_wire, limits_of
from lsstcutouts.loader.device.tensors import Form, as_tensor
from lsstcutouts.loader.device.transfer import DirectTransfer, Prefetcher, resolved, transfer_to
from lsstcutouts.loader.device.wire import packed, unpacked
from lsstcutouts.transforms.batch import TensorBatch

BOUND = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def through(image: np.ndarray, wire: str, **options) -> np.ndarray:
    return unpacked(packed({"image": torch.from_numpy(image)}, wire), **options)["image"].numpy()


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
@given(
    image=stnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4)),
        elements=st.one_of(
            st.sampled_from([np.nan, np.inf, -np.inf, 0.0]),
            st.floats(float(np.float32(-3.38e38)), float(np.float32(3.38e38)), width=32),
        ),
    )
)
def test_values_come_back_within_the_bound(wire: str, image: np.ndarray) -> None:
    back = through(image, wire)
    finite = np.isfinite(image)
    np.testing.assert_array_equal(back[~finite], image[~finite])
    assert (back[image == 0] == 0).all()
    largest = np.abs(np.where(finite, image, 0)).max(axis=(0, 2, 3), keepdims=True).astype(float)
    known = finite & (np.abs(image) >= np.finfo(np.float32).tiny)
    if wire == "float16":
        near = np.abs(image) >= largest * 2.0**-28
        known &= near
        faint = finite & ~known
        # The smallest number of float32 bounds what can be said, too: of its subnormal numbers, near or not.
        relative = np.where(near, BOUND[wire] * np.abs(image.astype(float)), largest * 2.0**-39)[faint]
        assert (np.abs(back[faint].astype(float) - image[faint]) <= relative + 2.0**-149).all()
    error = np.abs(back[known].astype(float) - image[known])
    assert (error <= BOUND[wire] * np.abs(image[known].astype(float))).all()


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_the_range_of_a_band_is_its_own(wire: str) -> None:
    """A bright band costs a faint one nothing, and numbers beyond float16's range arrive."""
    image = np.full((2, 3, 70, 90), 3.0e-6, np.float32)
    image[:, 1] = 7.7e7
    image[1, 2] = 0
    np.testing.assert_allclose(through(image, wire), image, rtol=BOUND[wire], atol=0)


def test_every_plane_of_pixels_travels_in_16_bit_and_the_rest_as_it_is() -> None:
    batch: TensorBatch = {name: torch.rand(2, 3, 5, 4) for name in ("image", "variance", "ivar", "psf")}
    rest: TensorBatch = {"ra": torch.rand(2, dtype=torch.float64), "kind": ["star", "lens"], "flux": torch.rand(2)}
    sent = packed({**batch, **rest}, "float16")
    assert {sent[name].dtype for name in batch} == {torch.float16}
    back = unpacked(sent)
    assert back.keys() == {*batch, *rest}
    assert all(torch.equal(back[name], rest[name]) for name in ("ra", "flux"))
    assert back["kind"] == rest["kind"]
    assert packed(batch, "float32") is batch


@pytest.mark.parametrize("wire", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3, 6, 64, 64), (2, 6, 130, 75), (1, 1, 4, 5), (40, 2, 3, 3)])
def test_channels_last_changes_the_layout_alone(wire: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made = unpacked(packed({"image": torch.from_numpy(image)}, wire), channels_last=True)["image"]
    assert made.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(made.numpy(), through(image, wire))


def test_a_form_gives_the_same_numbers_here_as_behind_a_transfer() -> None:
    arrays = {"image": np.random.default_rng(1).normal(size=(4, 3, 6, 5)).astype(np.float32), "kind": ["a"] * 4}
    here = Form(wire="float16", channels_last=True).tensors(arrays)
    sent = Form(wire="float16", channels_last=True, on_device=True).tensors(arrays)
    assert sent["image"].dtype == torch.float16
    there = DirectTransfer(torch.device("cpu"), channels_last=True).begin(sent)()
    assert here.keys() == there.keys() == arrays.keys()
    assert torch.equal(here["image"], there["image"])
    assert there["image"].stride() == here["image"].stride()


def test_a_tensor_s_array_gives_that_memory_back() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    whole, part = as_tensor(tensor.numpy()), as_tensor(tensor.numpy()[1:])
    assert whole.data_ptr() == tensor.data_ptr()
    assert whole.untyped_storage().data_ptr() == part.untyped_storage().data_ptr() - 16
    assert torch.equal(part, tensor[1:])
    assert torch.equal(as_tensor(tensor.numpy().T), tensor.T)
    assert torch.equal(as_tensor(tensor.numpy().view(np.int32)), tensor.view(torch.int32))


class Steps(Exception):  # noqa: N818 - it is no error of ours
    """What goes wrong with a batch in these tests."""


class Recorder:
    """A transfer that notes what is asked of it."""

    def __init__(self, bad: int = -1) -> None:
        self.events: list[str] = []
        self.bad = bad

    def begin(self, batch: TensorBatch) -> Callable[[], TensorBatch]:
        number = int(batch["number"])
        if number == self.bad:
            raise Steps(f"copy {number}")
        self.events.append(f"begin {number}")

        def arrive() -> TensorBatch:
            self.events.append(f"hand {number}")
            return batch

        return arrive


def numbers(count: int, bad: int = -1) -> Iterator[TensorBatch]:
    for number in range(count):
        if number == bad:
            raise Steps(f"read {number}")
        yield {"number": torch.tensor(number)}


def test_one_batch_is_ahead_after_the_first() -> None:
    recorder = Recorder()
    assert [int(b["number"]) for b in Prefetcher(numbers(4), recorder)] == [0, 1, 2, 3]
    assert recorder.events == ["begin 0", "hand 0", "begin 1", "begin 2", "hand 1", "begin 3", "hand 2", "hand 3"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_end_is_an_end(count: int) -> None:
    prefetcher = Prefetcher(numbers(count), Recorder())
    assert len(list(prefetcher)) == count
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(prefetcher)


@pytest.mark.parametrize("bad", [0, 1, 2, 3])
@pytest.mark.parametrize("what", ["read", "copy"])
def test_an_error_comes_in_the_place_of_its_batch(bad: int, what: str) -> None:
    batches = numbers(4, bad) if what == "read" else numbers(4)
    prefetcher = Prefetcher(batches, Recorder(bad if what == "copy" else -1))
    assert [int(next(prefetcher)["number"]) for _ in range(bad)] == list(range(bad))
    with pytest.raises(Steps, match=f"{what} {bad}"):
        next(prefetcher)
    assert len(list(prefetcher)) == (0 if what == "read" else 3 - bad)


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_host_memory_needs_no_transfer(device) -> None:
    assert resolved(device) is None
    assert transfer_to(None, "float16") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_words() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device in ("cuda", "cuda:1"):
            with pytest.raises(ConfigurationError, match=r"sees no CUDA devices.*doctor"):
                resolved(device)
    with pytest.raises(ConfigurationError, match="is not a device of torch"):
        resolved("gpu")


@pytest.mark.parametrize(
    ("capability", "compiles", "bfloat16"),
    [(None, True, True), ((6, 1), False, False), ((7, 0), True, False), ((7, 5), True, False), ((8, 0), True, True)],
)
def test_what_a_gpu_can_do_follows_from_its_capability(capability, compiles: bool, bfloat16: bool) -> None:
    assert can_compile(capability) is compiles
    check_wire("float16", capability)
    check_wire("float32", capability)
    if bfloat16:
        check_wire("bfloat16", capability)
    else:
        with pytest.raises(ConfigurationError, match=r"capability 8\.0.*use wire='float16'.*wire='float32'"):
            check_wire("bfloat16", capability)
    if capability is not None:
        limits = limits_of(capability)
        assert ("no torch.compile" in limits) is not compiles
        assert ("no bfloat16" in limits) is not bfloat16


def test_other_types_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="float32, bfloat16, float16, got 'int8'"):
        transfer_to(None, "int8")
