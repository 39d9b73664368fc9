"""Coadds under any name, in any format that Rubin used for them."""

from pathlib import Path

import lsst.images as li
import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler, DatasetType

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, DatasetError, PlaneError
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.faulty import copied
from ..support.repositories import simulated_once

SMALL = {"cells": (2, 3), "cell": (40, 30), "grid": (3, 4), "patches": [5, 6], "bands": "gi", "targets": 20, "seed": 4}


def repository(release: str, name: str) -> SimulatedRepository:
    return simulated_once(SimulationConfig(release=release, dataset_type=name, missing=[(6, "i")], **SMALL))


def whole_file(butler: Butler, repo: SimulatedRepository, patch: int, band: str) -> tuple[np.ndarray, int, int]:
    """Return an image and its first pixel, as `lsst.images` or astropy read it."""
    data_id = {"tract": repo.tract, "patch": patch, "band": band, "skymap": repo.skymap}
    if repo.release == "dp2":
        coadd = butler.get(repo.dataset_type, data_id)
        return coadd.image.array, coadd.bbox.y.start, coadd.bbox.x.start
    with fits.open(butler.getURI(repo.dataset_type, data_id).ospath) as hdus:
        header = hdus["IMAGE"].header
        return hdus["IMAGE"].data, int(header["CRVAL2A"]), int(header["CRVAL1A"])


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("dp1", "deepCoadd_calexp"),
        ("dp1", "deepCoadd"),
        ("dp1", "goodSeeingCoadd"),
        ("dp1", "template_coadd"),
        ("dp2", "deep_coadd"),
    ],
)
def test_coadds_by_name(release: str, name: str) -> None:
    repo = repository(release, name)
    assert repo.dataset_type == SimulatedRepository.load(repo.root).dataset_type == repo.config.dataset_type == name
    size, compared = 16, 0
    arguments = {"collections": repo.collections, "bands": "gi", "size": size, "threads": 1}
    catalog = Catalog.from_any(repo.truth)
    with LsstDataFetcher(repo.root, dataset_type=name, **arguments) as fetcher:
        batch = fetcher.fetch(catalog.ra, catalog.dec)
    with Butler.from_config(repo.root, collections=repo.collections) as butler:
        for n, (y0, x0) in enumerate(batch["yx0"].tolist()):
            for b, band in enumerate("gi"):
                patch = int(batch["patch"][n])
                if (patch, band) in repo.missing or patch not in repo.patches:
                    continue
                pixels, fy, fx = whole_file(butler, repo, patch, band)
                expected = pixels[max(y0 - fy, 0) : y0 - fy + size, max(x0 - fx, 0) : x0 - fx + size]
                if expected.shape == (size, size):
                    np.testing.assert_array_equal(batch["image"][n, b], np.nan_to_num(expected))
                    compared += 1
    assert compared > 20


def with_more_planes(mask: li.Mask, names: list[str]) -> li.Mask:
    """Return a mask with further planes; from the 32nd on they are in an HDU of their own."""
    rng, known = np.random.default_rng(6), [plane for plane in mask.schema if plane is not None]
    schema = li.MaskSchema([*known, *(li.MaskPlane(name, "One more") for name in names)])
    wide = li.Mask(0, schema=schema, bbox=mask.bbox)
    wide.update(mask)
    for name in names:
        wide.set(name, rng.random(mask.bbox.shape) < 0.2)
    return wide


def test_masked_images_by_name(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """Images of `lsst.images` that are no cell coadds, under a name and a storage class of their own.

    With mask planes in two HDUs, and one that only the files of one patch have.
    """
    repo, name, size = copied(dp2_repo, tmp_path), "differenceCoadd", 31
    whole = {}
    with Butler.from_config(str(repo.root), run="masked", writeable=True) as butler:
        dimensions = ("skymap", "tract", "patch", "band")
        kind = DatasetType(name, dimensions, "MaskedImageV2", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        for ref in butler.query_datasets("deep_coadd", collections=repo.collections, where="band IN ('g', 'r')"):
            coadd = butler.get(ref)
            names = [f"EXTRA{n}" for n in range(40)] + ["STREAK"] * (ref.dataId["patch"] == 9)
            new = butler.put(
                li.MaskedImage(
                    li.Image(coadd.image.array * 0.5, bbox=coadd.bbox, unit=coadd.image.unit),
                    mask=with_more_planes(coadd.mask, names),
                    variance=coadd.variance,
                    sky_projection=coadd.sky_projection,
                ),
                kind,
                ref.dataId,
            )
            whole[ref.dataId["patch"], ref.dataId["band"]] = butler.get(new)
    catalog, compared = Catalog.from_any(repo.truth), 0
    options = {"dataset_type": name, "collections": "masked", "bands": "gr", "size": size, "threads": 1}
    planes, masks = ("image", "variance", "mask", "valid"), ("DETECTED", "EXTRA37", "STREAK", "EXTRA2", "NO_DATA")
    with LsstDataFetcher(repo.root, planes=planes, read=ReadOptions(mask_planes=masks), **options) as fetcher:
        batch = fetcher.fetch(catalog.ra, catalog.dec)
    for n, (y0, x0) in enumerate(batch["yx0"].tolist()):
        box = li.Box.factory[y0 : y0 + size, x0 : x0 + size]
        for b, band in enumerate("gr"):
            one = whole.get((int(batch["patch"][n]), band))
            if one is None or not one.bbox.contains(box):
                continue
            part = one[box]
            np.testing.assert_array_equal(batch["image"][n, b], np.nan_to_num(part.image.array))
            np.testing.assert_array_equal(batch["variance"][n, b], part.variance.array)
            for bit, plane in enumerate(masks):
                lacks = plane == "STREAK" and batch["patch"][n] != 9
                there = np.zeros((size, size), bool) if lacks else part.mask.get(plane)
                np.testing.assert_array_equal(batch["mask"][n, b] >> bit & 1 == 1, there)
            want = np.isfinite(part.image.array) & ~part.mask.get("NO_DATA")
            np.testing.assert_array_equal(batch["valid"][n, b], want)
            compared += 1
    assert compared > 70
    assert [(batch["mask"] & 1 << bit).any() for bit in range(5)] == [True] * 5
    with (
        LsstDataFetcher(repo.root, planes=("psf",), **options) as fetcher,
        pytest.raises(
            PlaneError,
            match=r"the PSF of 'differenceCoadd' .* cannot be read: only DP2 cell coadds have one kernel per cell",
        ),
    ):
        fetcher.fetch(catalog.ra[:1], catalog.dec[:1])


def test_names_that_there_are_not(tmp_path: Path) -> None:
    repo = repository("dp1", "goodSeeingCoadd")
    arguments = {"collections": repo.collections, "bands": "g", "size": 8}
    fetcher = LsstDataFetcher(repo.root, dataset_type="deep_coadd", **arguments)
    with fetcher, pytest.raises(DatasetError, match=r"no dataset type 'deep_coadd'.*goodSeeingCoadd"):
        fetcher.fetch(53.0, -27.5)


@pytest.mark.parametrize("name", ["", "deep coadd", "a.b", 3])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigurationError, match="dataset_type="):
        SimulationConfig(dataset_type=name)
