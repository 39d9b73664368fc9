"""Matched PSFs, fluxes and noise; what has no PSF, or one that is too broad."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.convolution import convolve_fft

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.plan.quality import Quality
from lsstcutouts.transforms import Compose, MatchPsf, RandomD4, RandomRotation
from lsstcutouts.transforms.psf_kernels import Convolution

from ..support.augmenting import Batch, full_batch, in_channels_last, same
from ..support.point_spreads import PSFS, SCALE, fwhm_of, moffat, psf_batch

TARGET = 1.05
"""Arcseconds."""


def image_only(batch: Batch) -> Batch:
    return {n: v for n, v in batch.items() if n not in {"variance", "ivar", "mask", "valid"}}


# What it is for


@pytest.mark.parametrize("beta", [None, 4.765])
def test_all_psfs_have_the_width_of_the_target(beta: float | None) -> None:
    """Within 2 %, and 1 % of each other; their sums stay, normalised or not."""
    batch = psf_batch()
    batch["psf"][1] *= 3.0
    module = MatchPsf(1.25 if beta is None else TARGET, beta=beta)
    matched = module(batch)
    widths = np.array([fwhm_of(kernel) for kernel in matched["psf"].flatten(0, 1).numpy()]) * SCALE
    assert np.abs(widths / module.fwhm - 1).max() < 0.02
    torch.testing.assert_close(matched["psf"].sum((2, 3)), batch["psf"].sum((2, 3)), rtol=2e-3, atol=0)


def test_a_star_gets_the_width_and_keeps_its_flux() -> None:
    """Images of a point source as PSFs between pixels have it."""
    batch = image_only(psf_batch(6, 64, 65))
    shift = np.exp(-2j * np.pi * (0.3 * np.fft.fftfreq(64)[:, None] - 0.4 * np.fft.fftfreq(65)))
    stars = np.array([np.pad(kernel, ((15, 14), (15, 15))) for kernel in batch["psf"].flatten(0, 1).double().numpy()])
    stars = 500 * np.fft.ifft2(np.fft.fft2(stars) * shift).real.reshape(6, 3, 64, 65)
    batch["image"] = torch.from_numpy(stars).float()
    matched = MatchPsf(TARGET)(batch)["image"]
    widths = np.array([fwhm_of(star) for star in matched.flatten(0, 1).numpy()]) * SCALE
    assert np.abs(widths / TARGET - 1).max() < 0.02
    # The wings of some leave the cutout.
    torch.testing.assert_close(matched.sum((2, 3)), batch["image"].sum((2, 3)), rtol=5e-3, atol=0)


def test_a_kernel_is_a_target_of_its_own(tmp_path: Path) -> None:
    """As an array, a list or a file, normalised or not, larger or smaller than the PSFs; elliptical if it is."""
    batch = psf_batch()
    wanted = moffat(5.6, ratio=0.9, side=41)
    np.save(tmp_path / "target.npy", 7 * wanted)
    modules = [MatchPsf(wanted), MatchPsf(wanted.tolist()), MatchPsf(tmp_path / "target.npy")]
    results = [module(batch) for module in modules]
    for result in results[1:]:
        same(result, results[0], atol=1e-6)
    assert modules[0].kernels(batch).shape == (6, 3, 41, 41)
    np.testing.assert_allclose(
        results[0]["psf"].numpy(), np.broadcast_to(wanted[3:-3, 3:-3], (6, 3, 35, 35)), atol=4e-4
    )
    small = MatchPsf(moffat(5.3, side=25))(batch)
    assert small["psf"].shape == batch["psf"].shape
    assert fwhm_of(small["psf"][0, 0].numpy()) == pytest.approx(5.3, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_are_those_of_a_reference(dtype: torch.dtype) -> None:
    """Astropy's convolution with the same kernels: weighted means of valid pixels, sums with squared weights."""
    batch = psf_batch()
    batch["image"] = batch["image"].to(dtype)
    batch["valid"][:, :, 20:, :10] = False
    batch["ivar"] = torch.where(batch["valid"], 1 / batch["variance"], 0.0)
    module = MatchPsf(TARGET)
    found, kernels = module(batch), module.kernels(batch).double().numpy()

    def reference(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return convolve_fft(plane, kernel, boundary="fill", fill_value=0.0, normalize_kernel=False)

    for n in range(6):
        for b in range(3):
            kernel, good = kernels[n, b], batch["valid"][n, b].double().numpy()
            weight = reference(good, kernel)
            some = weight > 0.1001
            tolerance = {"rtol": 2e-4, "atol": 2e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
            image = reference(batch["image"][n, b].double().numpy() * good, kernel)[some] / weight[some]
            np.testing.assert_allclose(found["image"][n, b].numpy()[some], image, **tolerance)
            variance = reference(batch["variance"][n, b].double().numpy() * good, kernel**2)[some] / weight[some] ** 2
            np.testing.assert_allclose(found["variance"][n, b].numpy()[some], variance, rtol=1e-3)
            sound = np.abs(weight - 1) <= 0.05
            edge = np.abs(np.abs(weight - 1) - 0.05) < 1e-5
            assert (found["valid"][n, b].numpy() == sound)[~edge].all()
            inverse = np.zeros_like(weight)
            inverse[sound] = 1 / found["variance"][n, b].numpy()[sound]
            np.testing.assert_allclose(found["ivar"][n, b].numpy()[~edge], inverse[~edge], rtol=1e-3)
    assert found["image"].dtype == dtype
    assert 0.3 < found["valid"].double().mean() < 0.9


def test_without_a_plane_of_validity_edges_are_weighted_means() -> None:
    """A constant image stays what it is, up to the corners."""
    batch = image_only(psf_batch())
    batch["image"][:] = 7.0
    torch.testing.assert_close(MatchPsf(TARGET)(batch)["image"], batch["image"], rtol=1e-4, atol=1e-4)


def test_bits_of_the_mask_spread_as_far_as_weight_does() -> None:
    batch = psf_batch()
    batch["mask"][:] = 0
    batch["mask"][:, :, 12, 30] = 4
    batch["mask"][:, :, 0, 0] = 1
    module = MatchPsf(TARGET)
    found, kernels = module(batch)["mask"], module.kernels(batch).abs()
    for axis in (2, 3):
        share = kernels.sum(5 - axis) / kernels.sum((2, 3))[..., None]
        spread = (found & 4 > 0).any(5 - axis)
        rows = torch.zeros_like(spread)
        rows[..., (12, 30)[axis - 2] - 17 + torch.arange(35)[((12, 30)[axis - 2] - 17 + torch.arange(35)) >= 0]] = False
        for n in range(6):
            for b in range(3):
                reach = torch.nonzero(share[n, b] > 0.05).flatten() - 17 + (12, 30)[axis - 2]
                assert torch.nonzero(spread[n, b]).flatten().tolist() == reach.tolist()
    assert (found[:, :, 0, 0] & 1 == 1).all()
    assert not (found[:, :, -1, -1] & 1).any()


# Noise


def test_variance_and_correlation_are_those_of_many_realisations() -> None:
    """In the middle of cutouts whose noise differs from pixel to pixel by a factor of 3."""
    rng = np.random.default_rng(5)
    batch = psf_batch(1, 40, 41)
    batch["valid"][:] = True
    sigma = np.sqrt(batch["variance"].numpy())
    batch["ivar"] = 1 / batch["variance"]
    module = MatchPsf(TARGET)
    matched, count = module(batch), 1500
    kernels = module.kernels(batch).expand(count, -1, -1, -1)
    noise = torch.from_numpy((rng.normal(size=(count, 3, 40, 41)) * sigma).astype(np.float32))
    made = Convolution(kernels, (40, 41))(noise).numpy()[..., 8:-8, 8:-8]
    ratio = made.var(0) / matched["variance"][0, :, 8:-8, 8:-8].numpy()
    assert np.abs(ratio.mean((1, 2)) - 1).max() < 0.02
    assert ratio.std() < 0.06
    correlation = module.noise_correlation(batch)[0].numpy()
    white = Convolution(kernels, (40, 41))(torch.from_numpy(rng.normal(size=(count, 3, 40, 41)).astype(np.float32)))
    white = white.numpy()[..., 8:-8, 8:-8]
    for dy, dx in ((0, 1), (1, 0), (2, 3), (0, 5)):
        moved = white[..., dy:, dx:] * white[..., : 24 - dy, : 25 - dx]
        found = moved.mean((0, 2, 3)) / (white**2).mean((0, 2, 3))
        np.testing.assert_allclose(found, correlation[:, 17 + dy, 17 + dx], atol=0.02)


def test_sums_over_an_area_are_noisier_than_independent_pixels_by_the_factor() -> None:
    rng = np.random.default_rng(6)
    batch = psf_batch(1, 120, 120)
    module = MatchPsf(TARGET)
    factor = module(batch)["noise_correlation"][0].numpy()
    noise = torch.from_numpy(rng.normal(size=(400, 3, 120, 120)).astype(np.float32))
    made = Convolution(module.kernels(batch).expand(400, -1, -1, -1), (120, 120))(noise).numpy()[..., 10:-10, 10:-10]
    sums = made.sum((2, 3)).std(0) / (made.std((0, 2, 3)) * 100)
    np.testing.assert_allclose(sums, factor, rtol=0.12)
    assert (factor > 2).all()


# Bands that cannot be matched


def test_bands_without_psf_become_absent() -> None:
    batch = psf_batch()
    batch["psf_present"][0, 1] = False
    batch["psf"][0, 1] = 0
    batch["psf"][1, 2] = float("nan")
    batch["psf"][2, 0] = 0  # whatever psf_present says
    batch["band_present"][3, 1], batch["quality"][3, 1] = False, int(Quality.BAND_ABSENT)
    for name in ("image", "variance", "ivar", "mask", "valid", "psf", "psf_present"):
        batch[name][3, 1] = 0
    batch["quality"][0, 1] = int(Quality.PARTLY_COVERED)
    found, plain = MatchPsf(TARGET)(batch), MatchPsf(TARGET, missing_band="nan")(batch)
    lost = [(0, 1), (1, 2), (2, 0), (3, 1)]
    for n, b in lost:
        for name in ("image", "variance", "ivar", "mask", "valid", "psf"):
            assert not found[name][n, b].any(), name
        assert plain["image"][n, b].isnan().all() == plain["variance"][n, b].isnan().all() == ((n, b) != (3, 1))
        assert found["noise_correlation"][n, b] == 1
    absent = torch.ones(6, 3, dtype=torch.bool)
    for place in lost:
        absent[place] = False
    assert torch.equal(found["band_present"], absent)
    assert torch.equal(found["psf_present"], absent)
    quality = {place: int(found["quality"][place]) for place in lost}
    no_psf = int(Quality.NO_PSF)
    assert list(quality.values()) == [no_psf | Quality.PARTLY_COVERED, no_psf, no_psf, Quality.BAND_ABSENT]
    assert not found["quality"][absent].any()
    assert found["image"][absent].abs().amin(1).amax(1).gt(0).all()


def test_missing_bands_that_are_nan_stay_nan_and_spoil_no_other() -> None:
    batch = image_only(psf_batch())
    batch["image"][0, 1], batch["band_present"][0, 1], batch["psf_present"][0, 1] = float("nan"), False, False
    batch["image"][2, 2, 10:15, 10:15] = float("nan")  # fill=nan
    found = MatchPsf(TARGET, missing_band="nan")(batch)["image"]
    assert found[0, 1].isnan().all()
    assert found[2, 2, 12, 12].isnan()
    assert int(found.isnan().sum()) == 40 * 53 + int(found[2, 2].isnan().sum())
    assert int(found[2, 2].isnan().sum()) <= 25


@pytest.mark.parametrize("present", [True, False])
def test_a_batch_without_any_psf(present: bool) -> None:
    batch = psf_batch()
    batch["psf"][:], batch["psf_present"][:] = 0, present
    found = MatchPsf(TARGET)(batch)
    assert not found["band_present"].any()
    assert not found["image"].any()
    assert (found["quality"] == Quality.NO_PSF).all()


def test_a_psf_that_is_broader_than_the_target_is_noticed() -> None:
    """Also in one direction alone; noise is never amplified in silence."""
    batch = psf_batch()
    batch["psf"][4, 1] = torch.from_numpy(moffat(4.2, ratio=0.5))
    with pytest.raises(
        ConfigurationError, match=r"1 of 18 PSFs .* target of 1.05 arcsec.* target 4 of the batch, channel 1"
    ):
        MatchPsf(TARGET)(batch)
    found = MatchPsf(TARGET, broader="absent")(batch)
    assert found["band_present"].sum() == 17
    assert found["quality"][4, 1] == Quality.BROAD_PSF
    assert not found["psf_present"][4, 1]
    assert not found["psf"][4, 1].any()
    narrow = MatchPsf(0.8, broader="absent")
    absent = ~narrow(batch)["band_present"]
    widths = torch.tensor([[fwhm_of(kernel) for kernel in target] for target in batch["psf"].numpy()]) * SCALE
    assert absent[widths > 0.82].all()
    assert not absent[widths < 0.7].any()
    # Whatever is kept has less noise than before.
    assert (narrow(batch)["noise_correlation"][~absent] > 1).all()


# Any batch


def test_the_batch_that_came_in_is_left_alone() -> None:
    batch = psf_batch()
    before = copy.deepcopy(batch)
    result = MatchPsf(TARGET)(batch)
    same(batch, before)
    assert all(result[name].dtype == value.dtype for name, value in batch.items())
    assert set(result) - set(batch) == {"noise_correlation"}


def test_targets_are_matched_alike_in_any_batch_and_layout() -> None:
    batch, module = psf_batch(), MatchPsf(TARGET)
    whole = module(batch)
    parts = [module({n: v[rows] for n, v in batch.items()}) for rows in (slice(0, 1), slice(1, 6))]
    same({n: torch.cat([p[n] for p in parts]) for n in whole}, whole, atol=1e-4)
    last = module(in_channels_last(batch))
    assert last["image"].is_contiguous(memory_format=torch.channels_last)
    same({n: v.contiguous() for n, v in last.items()}, whole, atol=1e-4)


def test_empty_batches_and_small_cutouts() -> None:
    module = MatchPsf(TARGET)
    none = module({n: v[:0] for n, v in psf_batch().items()})
    assert none["image"].shape == (0, 3, 40, 53)
    assert none["noise_correlation"].shape == (0, 3)
    small = module(psf_batch(y=5, x=11))
    assert small["image"].shape == (6, 3, 5, 11)
    assert small["image"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    batch = image_only(psf_batch())
    half = {**batch, "image": batch["image"].to(dtype)}
    found = MatchPsf(TARGET)(half)["image"]
    assert found.dtype == dtype
    wanted = MatchPsf(TARGET)({**batch, "image": half["image"].float()})["image"]
    torch.testing.assert_close(found, wanted.to(dtype))
    narrow = MatchPsf(TARGET)({**half, "psf": batch["psf"].to(dtype)})["psf"]
    assert narrow.dtype == dtype
    assert fwhm_of(narrow[0, 0].float().numpy()) * SCALE == pytest.approx(TARGET, rel=0.02)


def test_nothing_is_asked_of_the_device() -> None:
    """The meta device has no values; only raising needs one."""
    batch = {name: value.to("meta") for name, value in psf_batch().items()}
    for module in (MatchPsf(TARGET, broader="absent", size=(20, 30)), MatchPsf(moffat(5.3), broader="absent")):
        assert all(value.device.type == "meta" for value in module.to("meta")(batch).values())


def test_the_centre_is_cut_out_with_its_positions() -> None:
    batch = psf_batch()
    whole, cut = MatchPsf(TARGET)(batch), MatchPsf(TARGET, size=(20, 31))(batch)
    for name in ("image", "variance", "ivar", "mask", "valid"):
        assert torch.equal(cut[name], whole[name][..., 10:30, 11:42])
    assert torch.equal(cut["psf"], whole["psf"])
    assert torch.equal(cut["offset"], batch["offset"] + torch.tensor([0.0, 0.0]))
    assert torch.equal(cut["yx0"], batch["yx0"] + torch.tensor([10, 11]))
    assert torch.equal(cut["wcs"][:, 2:4], batch["wcs"][:, 2:4] - torch.tensor([11, 10]))
    with pytest.raises(ConfigurationError, match=r"size=\(20, 64\) is larger than the cutouts of \(40, 53\)"):
        MatchPsf(TARGET, size=(20, 64))(batch)


def test_reflections_before_and_after_are_the_same() -> None:
    batch = psf_batch(y=41, x=41)
    before, after = (Compose(m)(batch) for m in ([RandomD4(), MatchPsf(TARGET)], [MatchPsf(TARGET), RandomD4()]))
    torch.testing.assert_close(before["image"], after["image"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(before["psf"], after["psf"], rtol=1e-3, atol=1e-6)
    assert torch.equal(before["valid"], after["valid"])
    turned = Compose([RandomRotation(30), MatchPsf(TARGET)])(batch)
    assert fwhm_of(turned["psf"][0, 0].numpy()) * SCALE == pytest.approx(TARGET, rel=0.02)


def test_it_can_be_copied_and_pickled(tmp_path: Path) -> None:
    np.save(tmp_path / "target.npy", moffat(5.3))
    for module in (MatchPsf(TARGET), MatchPsf("worst").fit(TARGET), MatchPsf(str(tmp_path / "target.npy"))):
        wanted = module(psf_batch())
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            same(other(psf_batch()), wanted)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": 0}, "target must be a number of at least 0.001, got 0"),
        ({"target": "best"}, "target must be a width in arcsec, 'worst', or a .* got 'best'"),
        ({"target": True}, "target must be a number"),
        ({"target": [1.0, 2.0]}, "nested list"),
        ({"target": [[1.0, 2.0]]}, r"odd sides, got the shape \(1, 2\)"),
        ({"target": [[0.0]]}, "positive sum"),
        ({"target": 1.0, "beta": 1}, "beta must be a number of at least 1.1"),
        ({"broader": "drop"}, "broader must be one of raise, absent, got 'drop'"),
        ({"broader": ["absent"]}, "broader must be one of raise, absent, got \\['absent'\\]"),
        ({"max_gain": 0.9}, "max_gain must be a number of at least 1"),
        ({"max_invalid": 0}, "max_invalid must be"),
        ({"size": 0}, "size must be"),
        ({"sample": 0}, "sample must be an integer >= 1"),
        ({"quantile": 1.1}, "quantile must be"),
        ({"missing_band": "skip"}, "missing_band must be one of zero, nan"),
        ({"missing_band": ["nan"]}, "missing_band must be one of zero, nan"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MatchPsf(**arguments)


@pytest.mark.parametrize(
    ("lacking", "words"), [("psf", "MatchPsf needs 'psf'"), ("wcs", "'wcs'"), ("image", "add 'image' to planes")]
)
def test_what_a_batch_lacks_is_named(lacking: str, words: str) -> None:
    batch = image_only(psf_batch())
    del batch[lacking]
    with pytest.raises(ConfigurationError, match=words):
        MatchPsf(TARGET)(batch)


def test_a_target_that_has_not_been_fitted_says_what_to_do() -> None:
    module = MatchPsf()
    assert not module.fitted
    with pytest.raises(ConfigurationError, match="has not been fitted"):
        module(full_batch())
    assert module.fit(1.0).fitted
    assert len(PSFS) == 6
