"""Device transforms: values against numpy, planes that move together, choices that repeat."""

import numpy as np
import pytest
import torch
from astropy.wcs import WCS

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import AsinhStretch, Compose, RandomD4, random_integers


def batch_of(count: int = 64, bands: int = 2, y: int = 8, x: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(count, bands, y, x, generator=generator) * 50
    return {
        "image": image,
        "valid": torch.rand(count, bands, y, x, generator=generator) > 0.2,
        "variance": image.abs() + 1,
        "object_id": torch.arange(count) * 7919 + 2**60,
        "offset": torch.rand(count, 2, generator=generator) - 0.5,
    }


def test_the_stretch_is_asinh_by_band() -> None:
    batch = batch_of()
    del batch["valid"]
    stretched = AsinhStretch({"g": 10.0, "r": 25.0}, bands="gr")(batch)["image"]
    want = np.arcsinh(batch["image"].numpy() / np.array([10.0, 25.0])[:, None, None])
    np.testing.assert_allclose(stretched.numpy(), want, rtol=1e-5)


def test_invalid_pixels_and_absent_bands_stay_zero() -> None:
    batch = batch_of()
    batch["image"][:, 0] = 0.0
    stretched = AsinhStretch(10.0)(batch)["image"]
    assert not stretched[:, 0].any()
    assert not stretched[~batch["valid"]].any()
    assert stretched[:, 1][batch["valid"][:, 1]].all()


def test_the_batch_that_came_in_is_left_alone() -> None:
    batch = batch_of()
    before = {name: value.clone() for name, value in batch.items()}
    Compose([AsinhStretch(5.0), RandomD4(seed=1)])(batch)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 0.0}, "positive"),
        ({"scale": {"g": 1.0}, "bands": "gr"}, r"has no value for the bands \['r'\]"),
        ({"scale": {"g": 1.0}}, "give the channel order as bands="),
        ({"scale": [1.0, -2.0]}, "positive"),
    ],
)
def test_scales_that_cannot_be(arguments, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AsinhStretch(**arguments)


def test_a_stretch_for_other_bands_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scales for 3 bands, but the batch has 2"):
        AsinhStretch([1.0, 2.0, 3.0])(batch_of())


SYMMETRIES = {
    (flip_y, flip_x, swap): lambda a, fy=flip_y, fx=flip_x, s=swap: (
        np.swapaxes(a[..., :: -1 if fy else 1, :: -1 if fx else 1], -1, -2)
        if s
        else a[..., :: -1 if fy else 1, :: -1 if fx else 1]
    )
    for flip_y in (0, 1)
    for flip_x in (0, 1)
    for swap in (0, 1)
}


def which(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int, int]]:
    return [k for k, f in SYMMETRIES.items() if f(before).shape == after.shape and (f(before) == after).all()]


def test_all_planes_turn_alike_by_one_of_eight() -> None:
    batch = batch_of(400)
    turned = RandomD4(seed=2)(batch)
    seen = []
    for i in range(400):
        (choice,) = which(batch["image"][i].numpy(), turned["image"][i].numpy())
        seen.append(choice)
        for plane in ("valid", "variance"):
            np.testing.assert_array_equal(SYMMETRIES[choice](batch[plane][i].numpy()), turned[plane][i].numpy())
    counts = [seen.count(k) for k in SYMMETRIES]
    assert min(counts) > 25
    assert len(counts) == 8


def test_the_offset_follows_the_target() -> None:
    """A single bright pixel, off the middle, stays where the offset says."""
    batch = batch_of(64, 1, 9, 9)
    batch["image"].zero_()
    batch["image"][:, 0, 6, 3] = 1.0
    batch["offset"] = torch.tensor([[2.0, -1.0]]).repeat(64, 1)
    turned = RandomD4()(batch)
    for i in range(64):
        y, x = np.argwhere(turned["image"][i, 0].numpy())[0]
        assert turned["offset"][i].tolist() == [y - 4, x - 4]


@pytest.mark.parametrize("shape", [(9, 9), (7, 12)])
def test_the_wcs_follows_the_pixels(shape: tuple[int, int]) -> None:
    """The sky position of each pixel value stays the same, as astropy computes it."""
    height, width = shape
    count = 64
    numbers = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    row = torch.tensor([53.1, -28.0, 3.25, -4.5, -5e-5, 2e-6, 1e-6, 5.5e-5], dtype=torch.float64)
    batch = {
        "image": numbers.expand(count, 1, height, width).clone(),
        "object_id": torch.arange(count),
        "offset": torch.zeros(count, 2),
        "wcs": row.expand(count, 8).clone(),
    }
    turned = RandomD4(seed=2)(batch)
    where = sky(row)(*np.mgrid[:height, :width])
    for image, wcs in zip(turned["image"], turned["wcs"], strict=True):
        pixels = image[0].numpy().astype(int)
        found = sky(wcs)(*np.mgrid[: pixels.shape[0], : pixels.shape[1]])
        for mine, want in zip(found, where, strict=True):
            np.testing.assert_allclose(mine, want.reshape(-1)[pixels], rtol=0, atol=1e-11)


def sky(row: torch.Tensor):
    ra, dec, x, y, *cd = row.tolist()
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    wcs.wcs.crpix, wcs.wcs.cd = [x + 1, y + 1], np.reshape(cd, (2, 2))
    return lambda y, x: wcs.all_pix2world(x, y, 0)


def test_filled_pixels_survive_the_stretch_where_asked() -> None:
    batch = {"image": torch.full((1, 1, 2, 2), 3.0), "valid": torch.tensor([[[[True, False], [False, True]]]])}
    assert (AsinhStretch(1.0)(batch)["image"] == 0).sum() == 2
    assert (AsinhStretch(1.0, keep_invalid=True)(batch)["image"] > 0).all()


def test_rectangles_keep_their_shape() -> None:
    batch = batch_of(100, 1, 6, 9)
    turned = RandomD4()(batch)
    assert turned["image"].shape == (100, 1, 6, 9)
    choices = {which(batch["image"][i].numpy(), turned["image"][i].numpy())[0] for i in range(100)}
    assert choices == {(a, b, 0) for a in (0, 1) for b in (0, 1)}


def test_choices_depend_on_seed_epoch_and_target_alone() -> None:
    module, batch = RandomD4(seed=4), batch_of()
    first = module(batch)["image"]
    assert torch.equal(first, RandomD4(seed=4)(batch)["image"])
    order = torch.randperm(64)
    mixed = {name: value[order] for name, value in batch.items()}
    assert torch.equal(module(mixed)["image"], first[order])
    module.set_epoch(1)
    assert not torch.equal(module(batch)["image"], first)
    assert not torch.equal(RandomD4(seed=5)(batch)["image"], first)


def test_the_hash_is_even_and_free_of_patterns() -> None:
    ids = torch.arange(80_000)
    values = random_integers(ids, 0, 0, 8)
    counts = torch.bincount(values, minlength=8)
    assert (counts - 10_000).abs().max() < 500
    pairs = torch.bincount(values[:-1] * 8 + values[1:], minlength=64)
    assert (pairs - 1250).abs().max() < 200


def test_the_hash_is_pinned() -> None:
    """A change would change every resumed run."""
    reference = random_integers(torch.tensor([0, 1, 2**62, -5]), 3, 2, 1000)
    mask = (1 << 64) - 1
    for value, object_id in zip(reference.tolist(), [0, 1, 2**62, -5], strict=True):
        state = (object_id + 0x9E3779B97F4A7C15 * 4 + 0xD1B54A32D192ED03 * 3) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        assert value == ((state ^ (state >> 31)) >> 33) % 1000


def test_in_place_writes_over_the_image_and_only_where_asked() -> None:
    batch = batch_of()
    kept, wanted = batch["image"], AsinhStretch(5.0)(batch)["image"]
    assert torch.equal(kept, batch_of()["image"])
    stretched = AsinhStretch(5.0, inplace=True)(batch)["image"]
    assert stretched.data_ptr() == kept.data_ptr()
    assert torch.equal(stretched, wanted)


@pytest.mark.parametrize("shape", [(8, 8), (6, 9)])
def test_turning_keeps_the_memory_layout(shape: tuple[int, int]) -> None:
    batch = batch_of(40, 3, *shape)
    other = {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
    turned, wanted = RandomD4()(other)["image"], RandomD4()(batch)["image"]
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert wanted.is_contiguous()
    assert torch.equal(turned, wanted)


def test_planes_of_other_sizes_turn_too() -> None:
    batch = {**batch_of(60), "psf": torch.rand(60, 2, 5, 5), "mask": torch.randint(0, 9, (60, 2, 8, 8)).int()}
    turned = RandomD4(seed=3)(batch)
    for i in range(60):
        (choice,) = which(batch["image"][i].numpy(), turned["image"][i].numpy())
        for plane in ("psf", "mask"):
            np.testing.assert_array_equal(SYMMETRIES[choice](batch[plane][i].numpy()), turned[plane][i].numpy())
