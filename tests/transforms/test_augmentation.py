"""Augmentations: choices that repeat and are independent of each other, noise, bands that are taken away."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.plan.quality import Quality
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import (
    AddNoise,
    BandDropout,
    Compose,
    RandomD4,
    RandomRotation,
    RandomShift,
    random_keys,
    random_normal,
    random_uniform,
)
from lsstcutouts.transforms.hashing import stream_of

from ..support.augmenting import at_epoch, full_batch, in_channels_last, same
from ..support.delivery import deliver, plan_of
from ..support.examples import examples

MODULES = {
    "d4": lambda seed=0: RandomD4(seed),
    "shift": lambda seed=0: RandomShift(3, seed=seed),
    "subpixel": lambda seed=0: RandomShift(2.5, subpixel=True, seed=seed),
    "cut": lambda seed=0: RandomShift(2, (15, 18), subpixel=True, kernel="bilinear", seed=seed),
    "rotation": lambda seed=0: RandomRotation((11, 13), kernel="bilinear", seed=seed),
    "noise": lambda seed=0: AddNoise((0.5, 3.0), seed=seed),
    "dropout": lambda seed=0: BandDropout(0.5, seed=seed),
    "all": lambda seed=0: Compose([BandDropout(0.3, seed=seed), RandomRotation((13, 14)), RandomD4(), AddNoise(1)]),
}
modules = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


# Choices


@modules
@examples(3)
@given(data=st.data())
def test_a_target_is_augmented_alike_in_any_order_and_batch(make, data: st.DataObject) -> None:
    batch = full_batch(16)
    whole = make()(batch)
    order = torch.tensor(data.draw(st.permutations(range(16))))
    cut = data.draw(st.integers(1, 15))
    parts = [make()({name: value[rows] for name, value in batch.items()}) for rows in (order[:cut], order[cut:])]
    # To rounding: torch computes the last elements of a batch without vector instructions.
    same(
        {name: torch.cat([p[name] for p in parts]) for name in whole},
        {n: v[order] for n, v in whole.items()},
        atol=1e-4,
    )


@modules
def test_epochs_seeds_and_repeats_differ_and_nothing_else_does(make) -> None:
    batch = full_batch(16)
    first = make()(batch)["image"]
    assert torch.equal(make()(batch)["image"], first)
    assert torch.equal(make()({**batch, "repeat": torch.zeros(16, dtype=torch.int64)})["image"], first)
    others = [make(seed=1)(batch), make()({**batch, "repeat": torch.arange(16)})]
    again = make()
    for module in again.modules():
        if hasattr(module, "set_epoch"):
            module.set_epoch(1)
    for other in (*others, again(batch)):
        assert not torch.equal(other["image"], first)
    assert torch.equal(others[1]["image"][0], first[0])


@modules
def test_the_batch_that_came_in_is_left_alone(make) -> None:
    batch = full_batch(8)
    before = copy.deepcopy(batch)
    result = make()(batch)
    same(batch, before)
    assert all(result[name].dtype == value.dtype for name, value in batch.items())


@modules
def test_the_memory_layout_changes_nothing(make) -> None:
    batch = full_batch(8)
    found = make()(in_channels_last(batch))
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    same({n: v.contiguous() for n, v in found.items()}, make()(batch), atol=1e-4)


@modules
def test_nothing_is_asked_of_the_device(make) -> None:
    """The meta device has no values: whatever needs one, as a wait for a GPU would be, raises."""
    batch = {name: value.to("meta") for name, value in full_batch(8).items()}
    result = make().to("meta")(batch)
    assert all(value.device.type == "meta" for value in result.values())


def test_streams_of_one_seed_are_independent() -> None:
    """Chi square of pairs of choices: 99.99 % of the values lie below 113 for 64 cells."""
    ids = torch.arange(12_800)
    keys = [random_keys(ids, 0, 0, stream=stream_of(name)) for name in ("RandomD4", "RandomShift", "AddNoise")]
    keys += [random_keys(ids, 0, 1, stream=stream_of("RandomD4")), random_keys(ids, 1, 0, stream=stream_of("RandomD4"))]
    keys += [random_keys(ids, 0, 0, stream=stream_of("RandomD4"), repeat=torch.ones_like(ids))]
    eighths = [(random_uniform(key, 2)[:, column] * 8).long() for key in keys for column in (0, 1)]
    for i, one in enumerate(eighths):
        for other in eighths[:i]:
            counts = torch.bincount(one * 8 + other, minlength=64).double()
            assert (counts - 200).square().sum() / 200 < 113


def test_uniform_and_normal_numbers() -> None:
    keys = random_keys(torch.arange(1000), 3, 0)
    uniform, normal = random_uniform(keys, 10, 21).double(), random_normal(keys, 10, 21).double()
    assert uniform.shape == normal.shape == (1000, 10, 21)
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    cumulative = torch.special.ndtr(normal).flatten().sort().values
    for values in (uniform.flatten().sort().values, cumulative):
        # Kolmogorov and Smirnov: 1.95 / sqrt(210 000) is the bound of 0.1 %.
        assert (values - (torch.arange(210_000) + 0.5) / 210_000).abs().max() < 1.95 / 210_000**0.5
    rows = torch.corrcoef(normal.reshape(1000, -1)[:200])
    assert (rows - torch.eye(200)).abs().max() < 5.5 / 210**0.5
    columns = torch.corrcoef(normal.reshape(1000, -1).T)
    assert (columns - torch.eye(210)).abs().max() < 5.5 / 1000**0.5


# Noise


def test_noise_has_the_variance_that_was_asked_for() -> None:
    batch = full_batch(64)
    batch["image"].zero_()
    noisy = AddNoise(3.0, seed=1)(batch)
    got = batch["valid"] & batch["band_present"][:, :, None, None]
    assert not noisy["image"][~got].any()
    for name in ("variance", "ivar"):
        assert torch.equal(noisy[name][~got], batch[name][~got])
    torch.testing.assert_close(noisy["variance"][got], 4 * batch["variance"][got])
    torch.testing.assert_close(noisy["ivar"][got], batch["ivar"][got] / 4)
    pulls = noisy["image"][got] / (3 * batch["variance"][got]).sqrt()
    assert abs(pulls.mean()) < 0.02
    assert abs(pulls.var() - 1) < 0.03
    for least in (1, 4, 7):  # it is each pixel's own
        some = got & (batch["variance"] > least) & (batch["variance"] < least + 3)
        assert abs((noisy["image"][some] / (3 * batch["variance"][some]).sqrt()).var() - 1) < 0.05


def test_noise_is_drawn_from_ivar_where_there_is_no_variance() -> None:
    batch = full_batch(16)
    both = AddNoise(2.0)(batch)
    alone = AddNoise(2.0)({name: v for name, v in batch.items() if name != "variance"})
    torch.testing.assert_close(alone["image"], both["image"])
    assert "variance" not in alone
    assert torch.equal(alone["ivar"], both["ivar"])


def test_each_target_has_a_depth_of_its_own() -> None:
    factors = AddNoise((1.0, 3.0)).factors(full_batch(64))
    assert 1 <= factors.min() < 1.2
    assert 2.8 < factors.max() < 3


def test_pixels_without_a_variance_get_no_noise() -> None:
    batch = full_batch(4)
    del batch["valid"], batch["band_present"]
    for value in (0.0, float("nan"), float("inf"), -1.0):
        batch["variance"][0, 0] = value
        noisy = AddNoise(1.0)(batch)
        assert torch.equal(noisy["image"][0, 0], batch["image"][0, 0])
        assert (noisy["image"][0, 1] != batch["image"][0, 1]).any()


# Bands


def test_bands_are_taken_as_often_as_asked_and_never_the_last() -> None:
    ids = torch.arange(20_000)
    present = torch.ones(20_000, 3, dtype=torch.bool)
    module = BandDropout({"g": 0.1, "i": 0.5}, "gri")
    shares = module.dropped({"object_id": ids, "band_present": present}).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.0, 0.5]), atol=0.012, rtol=0)
    present[::2, 0] = False
    dropped = BandDropout(1.0).dropped({"object_id": ids, "band_present": present})
    assert not (dropped & ~present).any()
    left = present & ~dropped
    assert (left.sum(1) == 1).all()
    torch.testing.assert_close(left[1::2].float().mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    at_most = BandDropout(1.0, maximum=1).dropped({"object_id": ids, "band_present": present})
    assert (at_most.sum(1) == 1).all()
    nothing = BandDropout(1.0).dropped({"object_id": ids, "band_present": torch.zeros_like(present)})
    assert not nothing.any()


@pytest.mark.parametrize("missing", ["zero", "nan"])
def test_a_band_that_is_taken_is_as_a_missing_one(dp2_repo: SimulatedRepository, missing: str) -> None:
    """As the reader delivers the same targets from a repository that lacks the band, in every key."""
    plan, rows = plan_of(dp2_repo), np.arange(0, 80, 2)
    options = {
        "planes": ("image", "variance", "ivar", "mask", "valid", "psf"),
        "mask_planes": ("DETECTED", "NO_DATA"),
        "missing_band": missing,
    }
    lacking = plan.patches.files.copy()
    lacking[:, 0] = -1
    other = dataclasses.replace(plan, patches=dataclasses.replace(plan.patches, files=lacking))
    batch, wanted = (
        {
            name: torch.from_numpy(np.asarray(v))
            for name, v in deliver(p, rows, **options).batch.items()
            if name != "wcs"
        }
        for p in (plan, other)
    )
    assert (batch["quality"][:, 0] == Quality.BAND_ABSENT).any()
    assert (batch["quality"][:, 0] == 0).any()
    assert wanted["band_present"].any(1).all()
    found = BandDropout({"g": 1.0}, "gri", missing_band=missing)(batch)
    same(found, wanted)
    assert (found["quality"][:, 0] == Quality.BAND_ABSENT).all()


# Arguments


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomD4(seed=0.5), "seed"),
        (lambda: RandomShift(1.5), "subpixel=True"),
        (lambda: RandomShift(-1), "max_shift"),
        (lambda: RandomShift(float("nan")), "max_shift"),
        (lambda: RandomShift("3"), "max_shift"),
        (lambda: RandomShift(1, size=0), "size"),
        (lambda: RandomShift(1, size=(3, 4, 5)), "size"),
        (lambda: RandomShift(1, size=2.5), "size"),
        (lambda: RandomShift(1, subpixel=True, kernel="spline"), "kernel must be one of bilinear"),
        (lambda: RandomShift(1, kernel=["cubic"]), "kernel must be one of bilinear"),
        (lambda: RandomShift(1, subpixel="false"), "subpixel must be true or false, got 'false'"),
        (lambda: RandomRotation(max_angle=200), "max_angle"),
        (lambda: AddNoise(-1.0), "factor"),
        (lambda: AddNoise((2.0, 1.0)), "factor"),
        (lambda: AddNoise((2.0, 1.0, 3.0)), "factor"),
        (lambda: BandDropout(1.5), "probability"),
        (lambda: BandDropout("often"), "probability"),
        (lambda: BandDropout({"u": 0.5}, "gri"), r"\['u'\]"),
        (lambda: BandDropout({"g": 0.5}), "bands"),
        (lambda: BandDropout(0.5, maximum=0), "maximum"),
        (lambda: BandDropout(0.5, missing_band="raise"), "missing_band"),
        (lambda: BandDropout(0.5, missing_band=["nan"]), "missing_band"),
    ],
)
def test_arguments_that_cannot_be(make, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


@pytest.mark.parametrize(
    ("module", "without", "words"),
    [
        (RandomD4(), ["offset"], "'offset'"),
        (RandomShift(1), ["object_id"], "'object_id'"),
        (RandomShift(1), ["image", "variance", "ivar", "mask", "valid"], "add 'image' to planes"),
        (AddNoise(1), ["variance", "ivar"], "add 'variance' or 'ivar' to planes"),
        (AddNoise(1), ["image"], "'image'.*add it to planes"),
        (BandDropout(), ["band_present"], "'band_present'"),
        (BandDropout([0.1, 0.2]), [], "probabilities for 2 bands, but the batch has 3"),
        (RandomRotation(), ["valid"], "fetch 40 x 40 or more and give size=.21, 26.*'valid'"),
        (RandomShift(3, size=19), [], "fetch 25 x 25 or more"),
    ],
)
def test_batches_that_lack_something(module, without: list[str], words: str) -> None:
    batch = {name: value for name, value in full_batch(2).items() if name not in without}
    with pytest.raises(ConfigurationError, match=words):
        module(batch)


def test_epochs_are_no_state() -> None:
    assert not at_epoch(RandomShift(1), 3).state_dict()
