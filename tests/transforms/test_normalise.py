"""Normalisations: values against numpy, the way back, colours, what ends as 0, compiled and in place."""

import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.utils import counters

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.steps import DeviceSteps
from lsstcutouts.transforms import AsinhStretch, Compose, Lupton, NoiseAsinh, Normalise, Overwriting, ZScore
from lsstcutouts.transforms.statistics import BandStatistics, Statistics

NOISE = (4.0, 11.0, 27.5)
MEDIAN = (0.5, -2.0, 7.0)
KINDS = [
    NoiseAsinh,
    lambda **changes: NoiseAsinh(3.0, subtract_median=True, **changes),
    Lupton,
    lambda **changes: Lupton(0.1, **changes),
    ZScore,
    lambda **changes: ZScore(subtract_median=False, **changes),
]
NAMES = ["asinh", "asinh_median", "lupton", "lupton_hard", "zscore", "zscore_zero"]
kinds = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")


def statistics(noise=NOISE, median=MEDIAN) -> Statistics:
    bands = {b: BandStatistics(m, n, {}, 1, 1) for b, n, m in zip("gri", noise, median, strict=True)}
    return Statistics(bands, "nJy", "deep_coadd", (8, 9), 0, 1, 1, 1, "")


def batch_of(count: int = 5, *, valid: bool = True, brightness: float = 300.0) -> dict[str, torch.Tensor]:
    """Return a batch with pixels from the noise to far above it, absent bands, and pixels that are not valid."""
    rng = np.random.default_rng(count)
    image = rng.normal(0, 5, (count, 3, 8, 9)) + brightness * rng.exponential(1, (count, 1, 8, 9)) ** 3
    sound = rng.random(image.shape) > 0.1
    present = rng.random((count, 3)) > 0.2
    sound &= present[:, :, None, None]
    image[~sound] = 0.0
    variance = torch.from_numpy(rng.uniform(10, 100, image.shape).astype(np.float32))
    batch = {
        "image": torch.from_numpy(image.astype(np.float32)),
        "variance": variance,
        "ivar": 1 / variance,
        "band_present": torch.from_numpy(present),
        "object_id": torch.arange(count),
    }
    return batch | ({"valid": torch.from_numpy(sound)} if valid else {})


def column(values) -> np.ndarray:
    return np.array(values)[:, None, None]


def test_values_are_those_of_the_formulas() -> None:
    batch, known = batch_of(), statistics()
    image, sound = batch["image"].numpy().astype(np.float64), batch["valid"].numpy()
    centred = image - column(MEDIAN)
    scaled = np.where(sound, image / column(NOISE), 0)
    intensity = scaled.sum(1, keepdims=True) / np.maximum(sound.sum(1, keepdims=True), 1)
    factor = np.arcsinh(intensity / 2) / np.where(intensity == 0, 1, intensity)
    common = 3 / np.sum(1 / np.array(NOISE))
    wanted = {
        NoiseAsinh(2.0): np.arcsinh(image / (2 * column(NOISE))),
        NoiseAsinh(subtract_median=True): np.arcsinh(centred / column(NOISE)),
        ZScore(): centred / column(NOISE),
        ZScore(clip=2.5): np.clip(centred / column(NOISE), -2.5, 2.5),
        Lupton(2.0): image / common * factor,
    }
    for module, values in wanted.items():
        found = module.fit(known)(batch)["image"]
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), np.where(sound, values, 0), rtol=2e-5, atol=1e-6)


@kinds
@pytest.mark.parametrize("valid", [True, False])
def test_the_way_back(kind, valid: bool) -> None:
    """From faint to a hundred thousand times the noise."""
    for brightness in (0.0, 1.0, 300.0, 1e5):
        module, batch = kind().fit(statistics()), batch_of(40, valid=valid, brightness=brightness)
        back = module.inverse(module(batch))
        # Pixels are exact to the rounding of the largest value that they were mixed with.
        peak = batch["image"].abs().amax(1, keepdim=True)
        assert bool(((back["image"] - batch["image"]).abs() <= 1e-5 * peak + 1e-4).all())
        assert torch.equal(back["variance"], batch["variance"])


@given(
    st.lists(st.floats(0.01, 1000), min_size=3, max_size=3),
    st.lists(st.floats(-1e5, 1e6, width=32), min_size=3, max_size=3),
    st.floats(0.05, 50),
)
def test_any_pixel_comes_back(noise: list[float], pixel: list[float], softening: float) -> None:
    known = statistics(noise, [0.3 * n for n in noise])
    image = torch.tensor(pixel, dtype=torch.float32).reshape(1, 3, 1, 1)
    for module in (NoiseAsinh(softening, subtract_median=True), ZScore(), Lupton(softening)):
        back = module.fit(known).inverse(module({"image": image}))["image"]
        # Bands whose noise-weighted mean all but cancels are known to the rounding of their parts.
        scaled = np.array(pixel) / np.array(noise)
        cancelled = 1.0
        if isinstance(module, Lupton):
            cancelled = 1 + np.abs(scaled).mean() / max(abs(scaled.mean()), softening)
        largest = max(map(abs, pixel)) + max(noise)
        np.testing.assert_allclose(back.numpy(), image.numpy(), rtol=0, atol=3e-5 * largest * cancelled)


def test_clipped_pixels_come_back_as_the_clip() -> None:
    module = ZScore(subtract_median=False, clip=2.0).fit(statistics())
    image = torch.tensor([4.0, -100.0, 55.1]).reshape(1, 3, 1, 1)
    assert module.inverse(module({"image": image}))["image"].flatten().tolist() == [4.0, -22.0, 55.0]


@given(st.lists(st.floats(0.5, 1e5, width=32), min_size=3, max_size=3), st.floats(0.05, 50))
def test_lupton_keeps_the_ratios_of_bands(pixel: list[float], softening: float) -> None:
    image = torch.tensor(pixel, dtype=torch.float32).reshape(1, 3, 1, 1)
    found = Lupton(softening).fit(statistics())({"image": image})["image"].flatten().double()
    np.testing.assert_allclose(found / found[0], np.array(pixel) / pixel[0], rtol=1e-5)
    one_band = {"image": image, "band_present": torch.tensor([[False, True, False]])}
    alone = Lupton(softening).fit(statistics())(one_band)["image"].flatten().tolist()
    assert alone[0] == alone[2] == 0
    common = 3 / sum(1 / n for n in NOISE)
    assert alone[1] == pytest.approx(math.asinh(pixel[1] / NOISE[1] / softening) * NOISE[1] / common, rel=1e-5)


def test_light_that_is_equal_in_all_bands_comes_out_as_the_stretch_of_its_mean() -> None:
    common = 3 / sum(1 / n for n in NOISE)
    for flux in (0.0, 1e-3, 0.1, 5.0, 1e4, -20.0):
        found = Lupton(2.0).fit(statistics())({"image": torch.full((1, 3, 1, 1), flux)})["image"]
        np.testing.assert_allclose(found.flatten(), math.asinh(flux / common / 2), rtol=1e-5, atol=1e-7)


@kinds
@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("there", [0.0, math.nan])
def test_absent_bands_and_invalid_pixels_end_as_zero(kind, valid: bool, there: float) -> None:
    batch = batch_of(valid=valid)
    absent = ~batch["band_present"][:, :, None, None].expand_as(batch["image"])
    lost = ~batch["valid"] if valid else absent
    batch["image"][lost] = there
    module = kind(propagate=True).fit(statistics())
    result = module(batch)
    assert not result["image"][lost].any()
    assert result["image"].isfinite().all()
    assert result["variance"].isfinite().all()
    back = module.inverse(result)
    assert not back["image"][lost].any()
    torch.testing.assert_close(back["variance"], batch["variance"], rtol=1e-3, atol=0)


@kinds
def test_pixels_filled_on_purpose_are_kept(kind) -> None:
    batch = batch_of()
    batch["image"][~batch["valid"]] = 3.0
    result = kind(keep_invalid=True).fit(statistics())(batch)["image"]
    filled = ~batch["valid"] & batch["band_present"][:, :, None, None]
    assert result[filled].all()
    assert not result[~batch["band_present"]].any()


@kinds
def test_variance_follows_the_derivative(kind) -> None:
    """Against a finite difference, for one band that changes by itself where the factor of the bands stays."""
    batch, module = batch_of(valid=False), kind(propagate=True).fit(statistics())
    result = module(batch)
    there = batch["band_present"][:, :, None, None] & (batch["image"] != 0)
    if isinstance(module, Lupton):
        slope = (result["image"] / batch["image"])[there].double()
    else:
        step = 0.05
        image = batch["image"].double()
        known = {"band_present": batch["band_present"]}
        module = module.double()
        up, down = (module({"image": image + sign * step, **known})["image"] for sign in (1, -1))
        slope = ((up - down) / (2 * step))[there]
    np.testing.assert_allclose(result["variance"][there], batch["variance"][there] * slope**2, rtol=1e-3)
    np.testing.assert_allclose(result["ivar"] * result["variance"], 1, rtol=1e-4)


@kinds
def test_without_statistics_nothing_is_normalised(kind) -> None:
    module = kind()
    assert not module.fitted
    with pytest.raises(ConfigurationError, match=r"has no statistics yet.*normalisation=.*statistics=.*fit\("):
        module(batch_of())
    module.fit(statistics())
    assert module.fitted
    with pytest.raises(ConfigurationError, match="was fitted to 3 bands, but the batch has 2"):
        module({"image": torch.zeros(1, 2, 4, 4)})
    with pytest.raises(ConfigurationError, match="no image to normalise"):
        module({"object_id": torch.zeros(1)})
    again = pickle.loads(pickle.dumps(module))
    assert again.statistics == module.statistics
    assert torch.equal(again(batch_of())["image"], module(batch_of())["image"])
    assert not module.state_dict()


@pytest.mark.parametrize(
    "make", [lambda: NoiseAsinh(0.0), lambda: Lupton(-1.0), lambda: ZScore(clip=0.0), lambda: NoiseAsinh(math.nan)]
)
def test_settings_that_cannot_be(make) -> None:
    with pytest.raises(ConfigurationError, match="must be positive"):
        make()


@kinds
def test_in_place_equals_a_copy(kind) -> None:
    batch, module = batch_of(), kind(propagate=True).fit(statistics())
    before = {name: values.clone() for name, values in batch.items()}
    wanted = module(batch)
    assert all(torch.equal(batch[name], values) for name, values in before.items())
    module.inplace = True
    found = module(batch)
    assert found["image"] is batch["image"] or found["image"].data_ptr() == batch["image"].data_ptr()
    for name, values in wanted.items():
        assert torch.equal(found[name], values), name
    module.inplace = False
    meta = {name: values.to("meta") for name, values in batch_of().items()}
    assert DeviceSteps().run(meta, [module])["image"] is meta["image"]
    assert not module.inplace


def test_only_modules_of_this_kind_are_switched() -> None:
    assert isinstance(AsinhStretch(1.0), Overwriting)
    assert isinstance(ZScore(), Overwriting)
    assert not isinstance(nn.ReLU(), Overwriting)
    assert not isinstance(Compose([ZScore()]), Overwriting)
    assert issubclass(Lupton, Normalise)


@has_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiled_equals_eager_and_is_compiled_once() -> None:
    """One after the other, though nobody would: so one compilation holds all three."""
    torch.compiler.reset()
    counters.clear()
    chain = (Lupton(), NoiseAsinh(subtract_median=True), ZScore(clip=30.0))
    module = Compose([one.fit(statistics()) for one in chain])
    chain[0].propagate = True
    compiled, eager = DeviceSteps(compile=True), DeviceSteps()
    for count in (16, 16, 7, 33):
        found, wanted = compiled.run(batch_of(count), [module]), eager.run(batch_of(count), [module])
        for name in ("image", "variance", "ivar"):
            torch.testing.assert_close(found[name], wanted[name], rtol=2e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
