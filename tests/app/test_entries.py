"""Where the target, north and east are in a picture, and how large its pixels are: by astropy."""

from itertools import pairwise

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord

from lsstcutouts import LsstDataFetcher, ReadOptions, batch_wcs
from lsstcutouts.app.gallery.entries import entries_of
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.testing import SimulatedRepository


def pictures(batch: dict) -> Pictures:
    return Pictures("gri", PictureStyle(), np.asarray(batch["image"], np.float32))


@pytest.fixture(scope="module")
def batch(dp2_repo: SimulatedRepository) -> dict:
    where = {"collections": dp2_repo.collections, "bands": "gri", "size": (23, 30), "planes": ("image", "mask")}
    with LsstDataFetcher(dp2_repo.root, **where, read=ReadOptions(mask_planes=["DETECTED", "SATURATED"])) as one:
        return dict(one.fetch_plan(one.plan(dp2_repo.truth)))


def test_target_directions_and_scale_are_those_of_astropy(batch: dict) -> None:
    for i, entry in enumerate(entries_of(batch, pictures(batch), captions=[""] * len(batch["ra"]))):
        wcs = batch_wcs(batch, i)
        here = SkyCoord(batch["ra"][i], batch["dec"][i], unit="deg")
        x, y = wcs.world_to_pixel(here)
        assert entry.target == pytest.approx((float(x), float(y)), abs=1e-6)
        for angle, found in ((0, entry.north), (90, entry.east)):
            there = wcs.world_to_pixel(here.directional_offset_by(angle * u.deg, 0.5 * u.arcsec))
            way = np.array([float(there[0] - x), float(there[1] - y)])
            assert entry.pixel_scale == pytest.approx(0.5 / np.hypot(*way), rel=1e-3)
            assert found == pytest.approx(tuple(way / np.hypot(*way)), abs=1e-3)
        assert entry.object_id == batch["object_id"][i]


def test_outlines_enclose_the_pixels_of_a_plane(batch: dict) -> None:
    names = ("DETECTED", "SATURATED")
    entries = list(entries_of(batch, pictures(batch), captions=[""] * len(batch["ra"]), outline=names))
    assert any(entry.outlines for entry in entries)
    for i, entry in enumerate(entries):
        for bit, name in enumerate(names):
            inside = ((np.asarray(batch["mask"][i]) >> bit) & 1).any(axis=0)
            assert (name in entry.outlines) == inside.any()
            # By the even-odd rule, a pixel is inside if a ray from its centre crosses the lines an odd number of times.
            y, x = np.indices(inside.shape)
            crossings = np.zeros(inside.shape, int)
            for line in entry.outlines.get(name, ()):
                for (x0, y0), (x1, y1) in pairwise(line):
                    if y0 != y1:
                        at = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                        crossings += ((y0 <= y) != (y1 <= y)) & (x < at)
            np.testing.assert_array_equal(crossings % 2 == 1, inside)


def test_tensors_and_batches_without_a_wcs(batch: dict) -> None:
    captions = [""] * len(batch["ra"])
    arrays = list(entries_of(batch, pictures(batch), captions=captions))
    tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in batch.items() if np.asarray(v).dtype.kind in "fiub"}
    for one, other in zip(arrays, entries_of(tensors, pictures(batch), captions=captions), strict=True):
        np.testing.assert_array_equal(one.panels[0].image, other.panels[0].image)
        assert (one.target, one.north, one.object_id) == (other.target, other.north, other.object_id)
    plain = list(entries_of({"image": tensors["image"]}, pictures(batch), captions=captions))
    assert (plain[3].object_id, plain[3].north, plain[3].pixel_scale, plain[3].target) == (3, None, None, (14.5, 11.0))


def test_captions_must_fit(batch: dict) -> None:
    with pytest.raises(ConfigurationError, match="captions= has 1 texts for"):
        list(entries_of(batch, pictures(batch), captions=["one"]))
