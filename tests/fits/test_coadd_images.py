"""Files of ``lsst.images``: what this package reads is what that one reads."""

from collections.abc import Iterator
from pathlib import Path

import astropy.units as u
import lsst.images as li
import numpy as np
import pytest
from lsst.daf.butler import Butler, DatasetRef
from lsst.images.cells import CellCoadd
from lsst.images.serialization import read_archive, write_archive

from lsstcutouts.errors import CorruptFileError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.afw import BOXES, SHAPE, START, compare, image, random_boxes
from ..support.repositories import simulated_copy

BBOX = Box.from_start(START, YX(*SHAPE))


def images_box(box: Box) -> li.Box:
    return li.Box.factory[box.y0 : box.y1, box.x0 : box.x1]


def wide_mask(count: int, bbox: Box = BBOX) -> li.Mask:
    """Return a mask of ``count`` planes, each with pixels of its own."""
    rng = np.random.default_rng(count)
    schema = li.MaskSchema([li.MaskPlane(f"PLANE{n}", f"Number {n}") for n in range(count)])
    mask = li.Mask(0, schema=schema, bbox=images_box(bbox))
    for n in range(count):
        mask.set(f"PLANE{n}", rng.random(bbox.shape) < 0.3)
    return mask


def masked_image(count: int) -> li.MaskedImage:
    bbox = images_box(BBOX)
    return li.MaskedImage(
        li.Image(image(), bbox=bbox, unit=u.nJy),
        mask=wide_mask(count),
        variance=li.Image(image(2) ** 2, bbox=bbox, unit=u.nJy**2),
    )


def compare_mask(coadd: Coadd, expected: li.Mask, count: int = BOXES) -> None:
    """Compare every mask plane in random boxes."""
    names = [plane.name for plane in expected.schema if plane is not None]
    assert sorted(coadd.mask_planes) == sorted(names)
    for box in random_boxes(coadd.bbox, count):
        pixels = {plane: coadd.read(plane, box) for plane in coadd.planes if plane.startswith("mask")}
        inside = box.slices(coadd.bbox.start)
        for name in names:
            plane, bit = coadd.mask_location(name)
            np.testing.assert_array_equal((pixels[plane] >> bit) & 1 != 0, expected.get(name)[inside], err_msg=name)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("count", [1, 30, 31, 32, 40, 62, 63, 70])
def test_masked_images_with_many_mask_planes(tmp_path: Path, count: int, compressed: bool) -> None:
    path = tmp_path / "masked.fits"
    options = {} if compressed else {"compression_options": dict.fromkeys(("image", "mask", "variance"))}
    write_archive(masked_image(count), str(path), **options)
    expected = read_archive(str(path))
    with open_coadd(path) as coadd:
        hdus = -(-count // 31)
        assert coadd.planes == ("image", "mask", "variance", *(f"mask{n}" for n in range(2, hdus + 1)))
        assert coadd.bbox == BBOX
        assert (coadd.layout("mask").compression == "NONE") != compressed
        compare(coadd, "image", expected.image.array)
        compare(coadd, "variance", expected.variance.array)
        compare_mask(coadd, expected.mask, 5)
        # lsst.images numbers the bits of all its planes in their order.
        assert coadd.mask_planes == {f"PLANE{n}": n for n in range(count)}
        layout = coadd.layout(coadd.planes[-1] if hdus > 1 else "mask")
        assert layout.plane == (f"mask{hdus}" if hdus > 1 else "mask")
        with pytest.raises(PlaneError, match=f"there is no plane 'mask{hdus + 1}'"):
            coadd.read(f"mask{hdus + 1}")


def test_a_bare_image(tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    write_archive(masked_image(3).image, str(path))
    with open_coadd(path) as coadd:
        assert coadd.planes == ("image",)
        compare(coadd, "image", image())
        with pytest.raises(PlaneError, match="no mask plane"):
            _ = coadd.mask_planes


def test_a_bare_mask_is_no_coadd(tmp_path: Path) -> None:
    path = tmp_path / "mask.fits"
    write_archive(wide_mask(40), str(path))
    with pytest.raises(UnsupportedFormatError, match="no image plane"):
        open_coadd(path)


def test_a_bit_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "masked.fits"
    write_archive(masked_image(3), str(path))
    content = path.read_bytes()
    at = content.index(b"MSKM0001=")
    path.write_bytes(content[:at] + b"MSKM0001=                    3".ljust(80) + content[at + 80 :])
    with open_coadd(path) as coadd, pytest.raises(CorruptFileError, match="MSKM0001 is 3, not one bit"):
        _ = coadd.mask_planes


# Cell coadds through a Butler

CELLS = {"cells": (1, 2), "grid": (3, 2), "patches": 1, "bands": "g", "targets": 5, "missing": None, "seed": 3}


@pytest.fixture(scope="module", params=[(150, 150), (91, 37)], ids=str)
def repo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimulatedRepository:
    """A repository of cells of some size; with infinite and negative variances in all areas without data."""
    config = SimulationConfig(cell=request.param, compression="lossless", **CELLS)
    return simulated_copy(tmp_path_factory.mktemp("cells") / "repo", config)


@pytest.fixture(scope="module")
def refs(repo: SimulatedRepository) -> Iterator[tuple[Butler, list[DatasetRef]]]:
    with Butler.from_config(repo.root, run="changed", writeable=True) as butler:
        found = butler.query_datasets(repo.dataset_type, collections=repo.collections)
        yield butler, [butler.put(changed(butler.get(ref)), ref.datasetType, ref.dataId) for ref in sorted(found)]


def changed(coadd: CellCoadd) -> CellCoadd:
    """Return a coadd with variances of every kind where it has no data, and with 40 more mask planes."""
    rng = np.random.default_rng(5)
    variance = coadd.variance.array
    nothing = coadd.mask.get("NO_DATA")
    kinds = np.array([np.inf, -np.inf, np.nan, -3.0, 0.0, 5.0], np.float32)
    variance[nothing] = rng.choice(kinds, np.count_nonzero(nothing))
    mask = li.Mask(
        0,
        schema=li.MaskSchema([*coadd.mask.schema, *(li.MaskPlane(f"EXTRA{n}", "One more") for n in range(40))]),
        bbox=coadd.bbox,
    )
    mask.update(coadd.mask)
    for n in range(40):
        mask.set(f"EXTRA{n}", rng.random(variance.shape) < 0.2)
    return CellCoadd(
        coadd.image, mask=mask, variance=coadd.variance, mask_fractions={}, noise_realizations=[],
        sky_projection=coadd.sky_projection, band=coadd.band, psf=coadd.psf, patch=coadd.patch,
    )  # fmt: skip


def test_cell_coadds(repo: SimulatedRepository, refs: tuple[Butler, list[DatasetRef]]) -> None:
    butler, datasets = refs
    seen = set()
    for ref in datasets:
        whole = butler.get(ref)
        with open_coadd(butler.getURI(ref)) as coadd:
            assert coadd.planes == ("image", "mask", "variance", "mask2")
            assert coadd.layout("image").tile_shape == repo.config.cell_shape
            for name in ("image", "variance"):
                compare(coadd, name, getattr(whole, name).array, 10)
                for box in random_boxes(coadd.bbox, 5, seed=1):
                    part = butler.get(ref.makeComponentRef(name), parameters={"bbox": images_box(box)})
                    np.testing.assert_array_equal(coadd.read(name, box), part.array)
            compare_mask(coadd, whole.mask, 5)
            variance = coadd.read("variance")
        seen |= {kind for kind, some in (("inf", np.isposinf(variance)), ("-inf", np.isneginf(variance)),
                                         ("nan", np.isnan(variance)), ("negative", variance < 0)) if some.any()}  # fmt: skip
    assert seen == {"inf", "-inf", "nan", "negative"}
