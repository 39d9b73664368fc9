"""Directions on the sky, against astropy."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io.fits import Header
from astropy.wcs import WCS

from lsstcutouts.transforms.injection.sky_frame import SkyFrame


@pytest.mark.parametrize("dec", [-85.0, -28.0, 0.0, 70.0])
@pytest.mark.parametrize("ra", [0.01, 150.0, 359.99])
def test_a_frame_equals_astropy(ra: float, dec: float) -> None:
    """Half a degree from ``crval``, where north is not up, and close to a pole."""
    matrix = np.array([[-5.2e-5, 1.1e-5], [1e-5, 5.6e-5]])
    header = Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec, "CRPIX1": 5001.0, "CRPIX2": -8999.0}
    )
    header.update({f"CD{i + 1}_{j + 1}": float(matrix[i, j]) for i in (0, 1) for j in (0, 1)})
    wcs = WCS(header)
    row = torch.tensor([[ra, dec, 5000.0, -9000.0, *matrix.ravel()]], dtype=torch.float64)
    frame = SkyFrame.at(row, torch.tensor([[30.25, 17.5]], dtype=torch.float64))
    here = SkyCoord(*wcs.all_pix2world(17.5, 30.25, 0), unit="deg")
    assert abs((frame.position[0, 0] - here.ra.deg + 180) % 360 - 180) < 1e-9
    assert abs(frame.position[0, 1] - here.dec.deg) < 1e-10
    for angle in (0.0, 90.0, 217.0):
        there = here.directional_offset_by(angle * u.deg, 1 * u.arcsec)
        x, y = wcs.all_world2pix(there.ra.deg, there.dec.deg, 0)
        along, _ = frame.along(torch.tensor([angle]))
        assert np.allclose(along[0].numpy(), (x - 17.5, y - 30.25), atol=2e-4)
    assert torch.allclose(frame.to_sky @ frame.to_pixels, torch.eye(2, dtype=torch.float64), atol=1e-10)


def test_a_grid_holds_the_circle() -> None:
    row = torch.tensor([[10.0, -30.0, 20.0, 20.0, -5e-5, 3e-5, 1e-5, 6e-5]], dtype=torch.float64)
    frame = SkyFrame.at(row, torch.tensor([[20.0, 20.0]], dtype=torch.float64))
    x, y = frame.grid(torch.tensor([3.0]), 200)
    east, north = frame.on_sky(x, y)
    distance = torch.hypot(east, north)
    assert distance[:, [0, -1]].min() > 2.9  # the edges touch the circle
    assert distance[:, :, [0, -1]].min() > 2.9
    assert distance[:, [0, -1]].min() < 3.1
