"""Pictures of cutouts."""

import numpy as np
import pytest
from matplotlib.image import imread

from lsstcutouts.app.mosaic import rgb, write_mosaic
from lsstcutouts.errors import ConfigurationError


def cutouts(count: int, bands: int, y: int = 20, x: int = 24) -> np.ndarray:
    images = np.random.default_rng(0).normal(0, 10, (count, bands, y, x)).astype(np.float32)
    images[:, :, 2:5, 3:6] += 500
    return images


def test_a_red_source_is_red() -> None:
    image = cutouts(1, 3)[0]
    image[:, 10:14, 10:14] = np.array([10, 60, 400], np.float32)[:, None, None]
    colour = rgb(image, "gri")
    assert colour.shape == (20, 24, 3)
    assert colour.dtype == np.uint8
    red, green, blue = colour[12, 12].astype(int)
    assert red > green > blue


@pytest.mark.parametrize("bands", ["g", "gr", "ugrizy", "zy", "y"])
def test_any_bands_make_a_picture(bands: str) -> None:
    assert rgb(cutouts(1, len(bands))[0], bands).max() > 150


def test_an_absent_band_or_half_a_box_does_not_blind() -> None:
    image = cutouts(1, 3)[0]
    image[0] = 0
    image[:, 8:] = 0
    image[1:, :3] = np.random.default_rng(1).normal(0, 10, (2, 3, 24))
    assert np.median(rgb(image, "gri")[:2, 10:]) < 100


def test_the_mosaic_is_a_picture_with_north_up(tmp_path) -> None:
    path = write_mosaic(tmp_path / "a b" / "m.png", cutouts(5, 3), "gri", [str(i) for i in range(5)], columns=3)
    picture = imread(path)
    assert picture.shape[0] > 300
    assert picture.shape[1] > 400
    # The source stands in the first rows of the cutouts, which are the southern ones: low in each frame.
    bright = np.argwhere(picture[..., :3].min(axis=2) > 0.9)
    assert len(bright)


def test_captions_must_fit(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="one caption per cutout"):
        write_mosaic(tmp_path / "m.png", cutouts(2, 3), "gri", ["one"])
    with pytest.raises(ConfigurationError, match="one caption"):
        write_mosaic(tmp_path / "m.png", cutouts(2, 3)[:0], "gri", [])
