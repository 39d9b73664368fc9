"""Sources from images, against GalSim."""

import pickle
from pathlib import Path

import galsim
import numpy as np
import pytest
import torch

from lsstcutouts.transforms import InjectSources, Stamps

from ..support.injecting import NORTH_UP, SCALE, TIGHT, empty_cutouts, kernels

STAMP_SCALE = 0.1


def lopsided(bands: int = 1) -> np.ndarray:
    """Return an image ``(bands, 40, 46)`` without symmetry, well sampled, with a flux of 50 to 50 * bands nJy."""
    y, x = np.mgrid[:40, :46]
    blobs = [(22, 20, 3.0, 1.0), (15, 30, 2.5, 0.6), (28, 12, 4.0, 0.3)]
    image = sum(a * np.exp(-((y - j) ** 2 + (x - i) ** 2) / (2 * s**2)) for j, i, s, a in blobs)
    return np.stack([image * (50 * (b + 1) / image.sum()) for b in range(bands)])


@pytest.mark.parametrize("angle", [0.0, 90.0, 37.0])
@pytest.mark.parametrize("matrix", [NORTH_UP, np.array([[0.17, -0.11], [0.11, 0.17]])], ids=["north up", "mirrored"])
def test_a_stamp_equals_galsim(angle: float, matrix: np.ndarray) -> None:
    stamp, kernel = lopsided(), kernels()[4]
    batch = empty_cutouts(1, 1, 51, 51, matrix=matrix)
    batch["psf"] = torch.from_numpy(kernel).float()[None, None]
    batch["offset"] = torch.tensor([[0.3, -0.2]])
    batch["wcs"][:, 2:4] = 25
    found = InjectSources(Stamps(stamp, STAMP_SCALE, angle), fraction=1.0)(batch)["image"][0, 0].numpy()
    image = galsim.InterpolatedImage(galsim.Image(stamp[0], scale=STAMP_SCALE), x_interpolant="quintic", gsparams=TIGHT)
    # Columns go to the west; position angles from north to east, which is clockwise over (east, north).
    source = image.transform(-1, 0, 0, 1).rotate(-angle * galsim.degrees)
    (a, b), (c, d) = matrix / SCALE
    psf = galsim.InterpolatedImage(
        galsim.Image(kernel / kernel.sum(), scale=SCALE), x_interpolant=galsim.Lanczos(30), gsparams=TIGHT, flux=1.0
    ).transform(a, b, c, d) / abs(a * d - b * c)
    drawn = galsim.Image(51, 51, dtype=float, wcs=galsim.JacobianWCS(*np.ravel(matrix)))
    galsim.Convolve(source, psf, gsparams=TIGHT).drawImage(drawn, method="no_pixel", offset=(-0.2, 0.3))
    assert np.abs(found - drawn.array).max() < 1e-4 * drawn.array.max()


def test_stamps_have_their_fluxes_or_given_ones() -> None:
    batch = empty_cutouts(6, 3, 51, 51)
    stamps = Stamps(np.stack([lopsided(3), 2 * lopsided(3)]), STAMP_SCALE)
    own = InjectSources(stamps, fraction=1.0)(batch)
    wanted = torch.tensor([50.0, 100.0, 150.0]) * (1 + own["injected_stamp"]).unsqueeze(1)
    assert len(own["injected_stamp"].unique()) == 2
    torch.testing.assert_close(own["injected_flux"], wanted)
    torch.testing.assert_close(own["image"].sum((2, 3)), wanted, rtol=1e-5, atol=0)
    given = InjectSources(stamps, magnitude=24.0, fraction=1.0)(batch)
    torch.testing.assert_close(given["image"].sum((2, 3)), torch.full((6, 3), 10 ** (0.4 * 7.4)), rtol=1e-5, atol=0)
    brighter = InjectSources(stamps, colours=[-2.5, 0.0, 0.0], fraction=1.0)(batch)
    torch.testing.assert_close(brighter["injected_flux"], wanted * torch.tensor([10.0, 1.0, 1.0]))


def test_stamps_of_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "stamps.npy", lopsided())
    batch = empty_cutouts(2, 1, 51, 51)
    of_array = InjectSources(Stamps(lopsided(), STAMP_SCALE), fraction=1.0)(batch)["image"]
    of_file = InjectSources(Stamps(tmp_path / "stamps.npy", STAMP_SCALE), fraction=1.0)
    assert torch.equal(of_file(batch)["image"], of_array)
    assert torch.equal(pickle.loads(pickle.dumps(of_file))(batch)["image"], of_array)
