"""What all adapters to foundation models have in common."""

import copy
import pickle
import shutil
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch._dynamo.utils import counters

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader.datamodule.description import described
from lsstcutouts.loader.datamodule.steps import DeviceSteps
from lsstcutouts.read.export import batch_wcs
from lsstcutouts.transforms import Adapter, Compose, RandomD4, ToAion, ToAstroPT, ToZoobot

from ..support.adapting import Batch, sky_batch
from ..support.augmenting import full_batch, in_channels_last, same

KINDS = (ToAion, ToZoobot, ToAstroPT)
EACH = pytest.mark.parametrize("kind", KINDS)
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
SIZES = {ToAion: (81, 90), ToZoobot: (177, 190), ToAstroPT: (336, 340)}


def small(kind: Any, bands: str = "grizy", **settings) -> Adapter:
    """Return an adapter that makes pictures of 48 x 48 pixels from about 45 x 45."""
    if kind is ToZoobot:
        return ToZoobot(bands, size=48, field=9.0, **settings)
    if kind is ToAstroPT:
        return ToAstroPT(bands, size=48, pixel_scale=0.18, **settings)
    return ToAion(bands, size=48, **settings)


def alike(one: Batch, other: Batch) -> None:
    """Compare two batches up to rounding, which may move the levels of a picture by 1, and so the patches of it."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value.dtype == torch.uint8:
            torch.testing.assert_close(value.int(), other[name].int(), rtol=0, atol=1)
        elif name != "images":
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-4)


@EACH
def test_the_defaults_are_those_of_the_model(kind: Any) -> None:
    y, x = SIZES[kind]
    adapted = kind("ugrizy")(sky_batch("ugrizy", (y, x)))
    shape, dtype = {
        ToAion: ((3, 5, 96, 96), torch.float32),
        ToZoobot: ((3, 3, 224, 224), torch.uint8),
        ToAstroPT: ((3, 3, 256, 256), torch.uint8),
    }[kind]
    assert (tuple(adapted["image"].shape), adapted["image"].dtype) == (shape, dtype)
    assert adapted["valid"].shape == shape
    assert adapted["band_present"].shape == adapted["quality"].shape == shape[:2]


@EACH
@pytest.mark.parametrize("axis", [0, 1])
def test_small_cutouts_are_an_error_that_says_what_to_fetch(kind: Any, axis: int) -> None:
    sides = [SIZES[kind][0]] * 2
    sides[axis] -= 1
    with pytest.raises(ConfigurationError, match=f"have {sides[0]} x {sides[1]}; fetch size={SIZES[kind][0]} or more"):
        kind("grizy")(sky_batch("grizy", tuple(sides)))


@EACH
def test_the_order_of_the_bands_of_the_batch_does_not_matter(kind: Any) -> None:
    batch = sky_batch("grizy", (45, 51))
    order = [3, 0, 4, 2, 1]
    turned = {**batch, **{name: batch[name][:, order] for name in ("image", "valid", "band_present", "quality")}}
    same(small(kind)(batch), small(kind, "zgyir")(turned))


@EACH
def test_targets_do_not_depend_on_their_batch(kind: Any) -> None:
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    whole = adapter(batch)
    for rows in (slice(0, 1), slice(2, 3), slice(0, 0)):
        alike(adapter({name: v[rows] for name, v in batch.items()}), {n: v[rows] for n, v in whole.items()})


@EACH
def test_what_is_missing_is_no_light(kind: Any) -> None:
    """Missing bands may be zero or NaN; pixels that are not finite or not valid are 0, unless they are to be kept."""
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    dark = copy.deepcopy(batch)
    dark["band_present"][0, 1] = dark["band_present"][1] = False
    dark["valid"] &= dark["band_present"][:, :, None, None]
    dark["image"][~dark["valid"]] = 0.0
    expected = adapter(dark)
    for hole in (float("nan"), float("inf"), 7e6):
        got = adapter({**dark, "image": dark["image"].masked_fill(~dark["valid"], hole)})
        same(got, expected)
    assert torch.equal(expected["band_present"][1], torch.zeros(len(expected["band_present"][1]), dtype=torch.bool))
    assert not expected["valid"][1].any()
    without = {name: v for name, v in dark.items() if name not in {"valid", "band_present", "quality", "wcs", "offset"}}
    without["image"] = without["image"].masked_fill(~dark["valid"], float("nan"))
    got = adapter(without)
    assert torch.equal(got["image"], expected["image"])
    assert got.keys().isdisjoint({"valid", "band_present", "wcs"})
    filled = dark["image"].masked_fill(~dark["valid"] & dark["band_present"][:, :, None, None], 500.0)
    kept = small(kind, keep_invalid=True)({**dark, "image": filled})
    assert not torch.equal(kept["image"], expected["image"])
    assert torch.equal(kept["valid"], expected["valid"])


@EACH
def test_a_position_on_the_sky_keeps_its_place_in_the_picture(kind: Any) -> None:
    batch = sky_batch("grizy", (45, 51))
    adapted = small(kind)(batch)
    scale = {ToAion: 0.168, ToZoobot: 9 / 48, ToAstroPT: 0.18}[kind] / 0.2
    for i in range(3):
        old, new = (batch_wcs(one, i) for one in (batch, {**adapted, "image": adapted["image"].float()}))
        y, x = np.array([4.0, 30.0, 22.0]), np.array([9.0, 40.0, 25.0])
        there = new.world_to_pixel(old.pixel_to_world(x, y))
        np.testing.assert_allclose(there[0], (x - 25) / scale + 23.5, atol=1e-5)
        np.testing.assert_allclose(there[1], (y - 22) / scale + 23.5, atol=1e-5)
    torch.testing.assert_close(adapted["offset"] * scale, batch["offset"])
    assert torch.equal(adapted["yx0"], batch["yx0"])


@EACH
def test_planes_on_the_old_pixels_are_left_out_and_the_batch_is_not_changed(kind: Any) -> None:
    batch = full_batch(4, 4, 47, 50)
    batch["wcs"] = sky_batch("griz", (47, 50))["wcs"][:1].repeat(4, 1)
    batch["label"] = torch.arange(4)
    before = copy.deepcopy(batch)
    adapter = ToAion("griz", "legacy", size=30) if kind is ToAion else small(kind, "griz")
    adapted = adapter(batch)
    same(batch, before)
    assert not {"variance", "ivar", "mask", "psf", "psf_present"} & adapted.keys()
    assert torch.equal(adapted["label"], batch["label"])
    assert torch.equal(adapted["object_id"], batch["object_id"])


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_images(kind: Any, dtype: torch.dtype) -> None:
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    batch["image"] = batch["image"].clamp(-6e4, 6e4).to(dtype)
    single = adapter({**batch, "image": batch["image"].float()})
    same(adapter(batch), single)


@EACH
def test_mixed_precision_does_not_round_the_pixels(kind: Any) -> None:
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    expected = adapter(batch)
    with torch.autocast("cpu", torch.bfloat16):
        same(adapter(batch), expected)


@EACH
def test_the_memory_format_of_the_image_is_kept(kind: Any) -> None:
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    adapted = adapter(in_channels_last(batch))
    alike(adapted, adapter(batch))
    assert adapted["image"].is_contiguous(memory_format=torch.channels_last)


@EACH
def test_copies_pickles_and_configurations_make_the_same(kind: Any) -> None:
    batch, adapter = sky_batch("grizy", (45, 51)), small(kind)
    expected, about = adapter(batch), described(adapter)
    assert "_incomplete_" not in about
    assert about["_target_"] == f"lsstcutouts.transforms.{kind.__name__}"
    written = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(about)))
    for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter)), hydra.utils.instantiate(written)):
        same(other(batch), expected)
        assert described(other) == about
    assert not adapter.state_dict()


@pytest.mark.parametrize(
    "kind", [ToZoobot, *(pytest.param(one, marks=pytest.mark.long) for one in (ToAion, ToAstroPT))]
)
@has_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiled_adapters_equal_eager_ones_and_are_compiled_once(kind: Any) -> None:
    torch.compiler.reset()
    counters.clear()
    adapter, compiled, eager = small(kind), DeviceSteps(compile=True), DeviceSteps()
    for count in (16, 7, 33):
        batch = sky_batch("grizy", (45, 51), count)
        alike(compiled.run(batch, [adapter]), eager.run(batch, [adapter]))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_after_augmentations() -> None:
    batch = full_batch(4, 5, 47, 47)
    batch["wcs"] = sky_batch("griz", (47, 47))["wcs"][:1].repeat(4, 1)
    turned = Compose([RandomD4(seed=2), small(ToAion)])(batch)
    expected = small(ToAion)(RandomD4(seed=2)(batch))
    same(turned, expected)


@EACH
def test_another_pixel_scale_is_an_error_that_names_it(kind: Any) -> None:
    batch = sky_batch("grizy", (60, 60))
    batch["wcs"][1, 4:] *= 0.168 / 0.2
    with pytest.raises(ConfigurationError, match=r"pixels of the batch have 0\.168; give native_scale"):
        small(kind)(batch)
    batch["wcs"][:, 4:] = sky_batch("grizy", (60, 60))["wcs"][:, 4:] * 0.168 / 0.2
    small(kind, native_scale=0.168)(batch)
    batch["wcs"][0], batch["wcs"][1] = float("nan"), 0.0  # nothing of these was read
    small(kind, native_scale=0.168)(batch)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bands": ""}, "bands must be different names"),
        ({"bands": "ggr"}, "bands must be different names"),
        ({"bands": 3}, "bands must be different names"),
        ({"bands": ["g", 1]}, "bands must be different names"),
        ({"native_scale": 0}, "native_scale must be positive, got 0"),
        ({"native_scale": "0.2"}, "native_scale must be a number"),
        ({"kernel": "lanczos"}, "kernel must be one of bilinear, cubic, quintic, got 'lanczos'"),
        ({"kernel": ["cubic"]}, "kernel must be one of bilinear, cubic, quintic"),
        ({"keep_invalid": "false"}, "keep_invalid must be true or false, got 'false'"),
        ({"size": 0}, "size must be a number of pixels"),
        ({"size": None}, "size must be a number of pixels"),
    ],
)
@EACH
def test_wrong_arguments_are_named(kind: Any, settings: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind(**{"bands": "grizy", **settings})


@EACH
def test_a_batch_of_other_bands_or_without_image_is_an_error(kind: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"has the bands g,r,i,z,y, but the image has the shape \(3, 4, 45, 51\)"
    ):
        small(kind)(sky_batch("griz", (45, 51)))
    with pytest.raises(ConfigurationError, match="needs 'image', but the batch has none"):
        small(kind)({"offset": torch.zeros(1, 2)})


@EACH
def test_lists_of_names_and_arrays_of_a_fetcher(kind: Any) -> None:
    batch = sky_batch("grizy", (45, 51))
    arrays = {name: value.numpy() for name, value in batch.items()}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    same(small(kind, OmegaConf.create(list("grizy")))(tensors), small(kind)(batch))
