"""Coadds under any name, in any format that Rubin used for them."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler

from lsstcutouts.catalog import Catalog
from lsstcutouts.errors import ConfigurationError, DatasetError
from lsstcutouts.fetcher import LsstDataFetcher
from lsstcutouts.simulate import SimulatedRepository, SimulationConfig, simulate

SMALL = {"cells": (2, 3), "cell": (40, 30), "grid": (3, 4), "patches": [5, 6], "bands": "gi", "targets": 20, "seed": 4}


def repository(root: Path, release: str, name: str) -> SimulatedRepository:
    return simulate(root / name, SimulationConfig(release=release, dataset_type=name, missing=[(6, "i")], **SMALL))


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
        ("dp1", "template_coadd"),
        ("dp2", "deep_coadd"),
    ],
)
def test_coadds_by_name(release: str, name: str, tmp_path: Path) -> None:
    repo = repository(tmp_path, release, name)
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


def test_names_that_there_are_not(tmp_path: Path) -> None:
    repo = repository(tmp_path, "dp1", "goodSeeingCoadd")
    arguments = {"collections": repo.collections, "bands": "g", "size": 8}
    fetcher = LsstDataFetcher(repo.root, dataset_type="deep_coadd", **arguments)
    with fetcher, pytest.raises(DatasetError, match=r"no dataset type 'deep_coadd'.*goodSeeingCoadd"):
        fetcher.fetch(53.0, -27.5)


@pytest.mark.parametrize("name", ["", "deep coadd", "a.b", 3])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigurationError, match="dataset_type="):
        SimulationConfig(dataset_type=name)
