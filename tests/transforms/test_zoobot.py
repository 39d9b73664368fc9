"""Fields of view, sizes and types that Zoobot documents."""

import numpy as np
import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import ToZoobot

from ..support.adapting import gaussian, sky_batch

NMGY = 3630.78  # nJy


def levels(nanomaggies: np.ndarray) -> np.ndarray:
    """Return the levels of grey pixels (z, r, g), each ``flux / scale`` the same: 255 (asinh - low) / (high - low), cut."""
    low, high = np.arcsinh(-0.5), np.arcsinh(300)
    return 255 * (np.arcsinh(nanomaggies) - low) / (high - low)


def grey_source(shape: tuple[int, int], sigma: float, total: float, pixel: float) -> dict[str, torch.Tensor]:
    """Return a batch of one Gaussian (arcsec) with the same ``flux / scale`` in g, r and z."""
    scales = np.array([0.008, 0.014, 0.019])[:, None, None]
    image = total * NMGY * scales * gaussian(shape, sigma, (0, 0), pixel)
    return {"image": torch.from_numpy(image[None].astype(np.float32))}


@pytest.mark.parametrize(
    ("settings", "shape", "pixel"),
    [
        ({}, (180, 177), 424 * 0.1 / 1.2 / 224),  # small galaxies: 424 px of 0.1 arcsec, enlarged by 1.2
        ({"field": 20.0, "size": 100}, (101, 120), 0.2),
        ({"field": None, "size": 64}, (96, 128), 0.3),  # the whole of the shorter side
        ({"field": None}, (112, 112), 0.1),
    ],
)
def test_the_field_of_view(settings: dict, shape: tuple[int, int], pixel: float) -> None:
    """The picture of a source has the levels of its brightness, in nanomaggies per pixel of 0.262 arcsec, at each place."""
    got = ToZoobot("grz", dtype="float32", **settings)(grey_source(shape, 1.5, 900.0, 0.2))["image"][0]
    side = got.shape[-1]
    there = 900 * gaussian((side, side), 1.5, (0, 0), pixel) * (0.262 / pixel) ** 2
    wanted = np.clip(levels(there) / 255, 0, 1)
    # Grey pixels are not changed by what removes strong colours, but for 1 - sin(0.6 * pi / 2) = 0.19 of the last term.
    rest = 1 - np.sin(0.6 * np.pi / 2)
    np.testing.assert_allclose(got, np.clip(wanted + wanted**2 * rest**2, 0, 1)[None].repeat(3, 0), atol=4e-3)


def test_types_and_levels() -> None:
    batch = sky_batch("grizy", (180, 180))
    whole, fractions = (ToZoobot("grizy", dtype=dtype)(batch)["image"] for dtype in ("uint8", "float32"))
    assert (whole.dtype, fractions.dtype) == (torch.uint8, torch.float32)
    assert torch.equal(whole, (255 * fractions).floor().to(torch.uint8))
    assert 0 <= fractions.min() < fractions.max() <= 1
    assert whole.max() > 150


def test_the_order_of_the_colours() -> None:
    """Red is z, green r, blue g."""
    for band, colour in (("z", 0), ("r", 1), ("g", 2)):
        image = torch.zeros(1, 6, 180, 180)
        image[:, "ugrizy".index(band)] = 50.0
        picture = ToZoobot("ugrizy")({"image": image})["image"][0, :, 100, 100].int()
        assert picture.argmax() == colour
    assert ToZoobot("gri").rgb == ("i", "r", "g")
    assert ToZoobot("griz", rgb="irg").rgb == ("i", "r", "g")
    with pytest.raises(ConfigurationError, match="needs the bands z,r,g, but bands='rz' has no g"):
        ToZoobot("rz")


def test_the_field_follows_the_size_of_the_galaxy() -> None:
    """424 pixels of max(0.1, 0.04 radius) arcsec, enlarged by 1.2; beyond the cutout it is black and not valid."""
    batch = sky_batch("griz", (180, 180), 4)
    batch["image"][:] = batch["image"][2]
    batch["r50"] = torch.tensor([0.5, float("nan"), 5.0, 2.5], dtype=torch.float64)
    got = ToZoobot("griz", radius="r50")(batch)
    plain = ToZoobot("griz")(batch)
    for i in (0, 1, 3):
        assert (got["image"][i].int() - plain["image"][i].int()).abs().max() <= 1
    wide = ToZoobot("griz", field=2 * 424 * 0.1 / 1.2, size=224)
    with pytest.raises(ConfigurationError, match="fetch size=354 or more"):
        wide(batch)
    inside = got["valid"][2].any(0)
    assert inside[60:160, 60:160].any()
    edge = int(112 - 18 / (2 * 35.333 / 224)) - 1  # 18 arcsec from the middle
    assert not inside[:edge].any()
    assert not inside[:, :edge].any()
    assert (got["image"][2, :, :edge] == got["image"][2, 0, 0, 0]).all()
    np.testing.assert_allclose(got["offset"][2], batch["offset"][2] * 0.2 * 224 / (2 * 424 * 0.1 / 1.2), rtol=1e-5)
    with pytest.raises(ConfigurationError, match="needs 'size', but the batch has none"):
        ToZoobot("griz", radius="size")(batch)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float16"}, "dtype must be one of uint8, float32, got 'float16'"),
        ({"dtype": ["uint8"]}, "dtype must be one of uint8, float32"),
        ({"field": 0}, "field must be positive, got 0"),
        ({"field": "20 arcsec"}, "field must be a number"),
        ({"radius": 3.0}, "radius must be the name of a column"),
        ({"rgb": "zr"}, "rgb must be three of g, r, i, z"),
    ],
)
def test_wrong_settings(settings: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ToZoobot("ugrizy", **settings)
