"""Profiles, matching kernels and convolutions against astropy and plain NumPy."""

import numpy as np
import pytest
import torch
from astropy.convolution import convolve_fft
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.transforms.psf_kernels import (
    REGULARISATION,
    Convolution,
    autocorrelation,
    centred_profile,
    fast_length,
    largest_gain,
    matching_kernels,
    matching_transform,
)

from ..support.examples import examples
from ..support.point_spreads import PSFS, fwhm_of, moffat


@pytest.mark.parametrize("beta", [None, 2.5, 4.765])
def test_profiles_have_their_width_and_the_sum_1(beta: float | None) -> None:
    profiles = centred_profile(torch.tensor([3.5, 6.25], dtype=torch.float64), beta, (60, 54))
    assert profiles.shape == (2, 60, 54)
    torch.testing.assert_close(profiles.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    for profile, fwhm in zip(profiles.numpy(), (3.5, 6.25), strict=True):
        assert profile.argmax() == 0
        # The 6.25 px Moffat with strong wings is cut off at the edge.
        assert fwhm_of(np.fft.fftshift(profile)) == pytest.approx(fwhm, rel=5e-3)


@examples(20)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 8), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_a_convolution_is_astropys(y: int, x: int, ky: int, kx: int, seed: int) -> None:
    """Of shapes that are not square, and of kernels that are larger than the plane."""
    rng = np.random.default_rng(seed)
    plane, kernel = rng.normal(size=(2, 1, y, x)), rng.normal(size=(2, 1, 2 * ky + 1, 2 * kx + 1))
    found = Convolution(torch.from_numpy(kernel), (y, x))(torch.from_numpy(plane)).numpy()
    for n in range(2):
        wanted = convolve_fft(plane[n, 0], kernel[n, 0], boundary="fill", fill_value=0.0, normalize_kernel=False)
        np.testing.assert_allclose(found[n, 0], wanted, atol=1e-10)


@pytest.mark.parametrize("name", PSFS)
def test_kernels_are_those_of_the_formula(name: str) -> None:
    """Written down once more, for one PSF, with complex transforms."""
    shape, psf = (54, 60), PSFS[name]
    target = np.roll(np.pad(moffat(5.3, side=39), ((0, 15), (0, 21))), (-19, -19), (0, 1))
    found = matching_transform(torch.from_numpy(psf[None, None]), torch.from_numpy(target), shape)
    kernels, gain = matching_kernels(found, shape, (35, 35), (35, 35)), largest_gain(found)
    padded = np.roll(np.pad(psf, ((0, 19), (0, 25))), (-17, -17), (0, 1))
    laplacian = np.zeros(shape)
    laplacian[0, 0], laplacian[0, 1], laplacian[0, -1], laplacian[1, 0], laplacian[-1, 0] = 4, -1, -1, -1, -1
    response, penalty = np.fft.fft2(padded), np.abs(np.fft.fft2(laplacian)) ** 2
    transform = response.conj() * np.fft.fft2(target) / (np.abs(response) ** 2 + REGULARISATION * penalty)
    wanted = np.fft.fftshift(np.fft.ifft2(transform).real)[27 - 17 : 27 + 18, 30 - 17 : 30 + 18]
    np.testing.assert_allclose(kernels[0, 0].numpy(), wanted / wanted.sum(), atol=1e-12)
    assert float(gain) == pytest.approx(np.abs(transform).max())
    assert float(gain) <= 1.25


def test_a_convolution_with_the_autocorrelation_of_noise() -> None:
    kernel = np.random.default_rng(3).normal(size=(1, 1, 7, 11))
    found = autocorrelation(torch.from_numpy(kernel))[0, 0].numpy()
    assert found[3, 5] == 1
    full = convolve_fft(
        np.pad(kernel[0, 0], ((6, 6), (10, 10))),
        kernel[0, 0, ::-1, ::-1],
        boundary="fill",
        fill_value=0.0,
        normalize_kernel=False,
    )
    np.testing.assert_allclose(found, full[6:13, 10:21] / (kernel**2).sum(), atol=1e-12)


def test_lengths_are_products_of_small_primes() -> None:
    smooth = {2**a * 3**b * 5**c for a in range(10) for b in range(7) for c in range(5)}
    assert [fast_length(n) for n in range(200)] == [min(m for m in smooth if m >= n) for n in range(200)]
