"""Pictures and patches that AstroPT documents, patch by patch."""

import itertools

import numpy as np
import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import ToAstroPT

from ..support.adapting import gaussian, sky_batch


def spiral(side: int) -> list[tuple[int, int]]:
    """Return the places (row, column) in the order of a walk inwards: right, down, left, up; from its last to its first."""
    place, seen, walk = (0, 0), set(), []
    steps = itertools.cycle([(0, 1), (1, 0), (0, -1), (-1, 0)])
    step = next(steps)
    while len(walk) < side * side:
        walk.append(place)
        seen.add(place)
        ahead = place[0] + step[0], place[1] + step[1]
        if ahead in seen or not all(0 <= v < side for v in ahead):
            step = next(steps)
            ahead = place[0] + step[0], place[1] + step[1]
        place = ahead
    return walk[::-1]


@pytest.mark.parametrize(("size", "patch_size"), [(48, 16), (64, 16), (20, 4), (16, 16), (15, 3)])
@pytest.mark.parametrize("spirals", [True, False])
def test_patches(size: int, patch_size: int, spirals: bool) -> None:
    """Of the array of a JPEG file (rows from the top) with axes 0 and 2 exchanged, as process_galaxy_wrapper makes it."""
    adapter = ToAstroPT("griz", size=size, patch_size=patch_size, spiral=spirals)
    adapted = adapter(sky_batch("griz", (90, 90)))
    side = size // patch_size
    places = spiral(side) if spirals else list(itertools.product(range(side), repeat=2))
    for i in range(3):
        read = adapted["image"][i].numpy()[:, ::-1].transpose(1, 2, 0)  # as PIL gives it: rows, columns, colours
        galaxy = read.swapaxes(0, 2).astype(float)
        for t, (row, column) in enumerate(places):
            patch = galaxy[:, row * patch_size :, column * patch_size :][:, :patch_size, :patch_size]
            patch = patch.transpose(1, 2, 0).reshape(-1)
            wanted = (patch - patch.mean()) / (patch.std(ddof=1) + 1e-8)
            np.testing.assert_allclose(adapted["images"][i, t], wanted, atol=2e-5, err_msg=f"{i} {t}")
    assert adapted["images"].dtype == torch.float32
    assert adapted["images_positions"].tolist() == [list(range(side * side))] * 3


def test_the_picture_is_that_of_the_viewer_of_the_legacy_surveys() -> None:
    """256 pixels of 0.262 arcsec; levels of dr2_rgb, for a source that is grey in it."""
    factors, total, sigma = np.array([6.0, 3.4, 2.2])[:, None, None], 40.0, 1.8
    image = total * 3630.78 / factors * gaussian((336, 350), sigma, (0.4, -0.9), 0.2)
    batch = {"image": torch.from_numpy(image[None].astype(np.float32))}
    adapted = ToAstroPT("grz")(batch)
    mean = total * gaussian((256, 256), sigma, (0.4, -0.9), 0.262) + 0.03
    wanted = 255 * np.clip(np.arcsinh(20 * mean) / np.sqrt(20), 0, 1)
    assert np.abs(adapted["image"][0].numpy() - wanted).max() < 1.3  # cut to whole levels
    assert adapted["images"].shape == (1, 256, 768)


def test_the_order_of_the_colours_of_the_picture() -> None:
    for band, colour in (("z", 0), ("r", 1), ("g", 2)):
        image = torch.zeros(1, 4, 60, 60)
        image[:, "griz".index(band)] = 300.0
        assert ToAstroPT("griz", size=32)({"image": image})["image"][0, :, 16, 16].argmax() == colour
    assert ToAstroPT("gri").rgb == ("i", "r", "g")


def test_a_dark_picture_has_patches_of_zero() -> None:
    adapted = ToAstroPT("griz", size=32)({"image": torch.full((2, 4, 60, 60), float("nan"))})
    assert not adapted["images"].any()
    assert len(adapted["image"].unique()) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": (256, 224)}, "size must be one number of pixels"),
        ({"size": 250}, "patch_size must divide size=250, got 16"),
        ({"patch_size": 0}, "patch_size must divide size=256, got 0"),
        ({"patch_size": 16.0}, "patch_size must divide size=256, got 16.0"),
        ({"spiral": "false"}, "spiral must be true or false, got 'false'"),
        ({"pixel_scale": -1}, "pixel_scale must be a number of at least 0"),
        ({"pixel_scale": 0}, "pixel_scale must be positive"),
    ],
)
def test_wrong_sizes(settings: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ToAstroPT("griz", **settings)
