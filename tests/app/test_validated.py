"""Pictures show what the validation of a training saw."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lsstcutouts import LsstDataFetcher
from lsstcutouts.app.gallery.validated import as_validated
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import AddNoise, Compose, InjectSources, PointSource, RandomD4, inject


def test_a_picture_shows_the_sources_of_validation(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    truth = pq.read_table(dp2_repo.truth).slice(0, 20)
    options = {"collections": "dp2", "bands": "gri", "size": 32, "planes": ("image", "psf", "variance")}
    with LsstDataFetcher(dp2_repo.root, **options) as fetcher:
        batch = fetcher.fetch_plan(fetcher.plan(truth))
    stars = InjectSources(PointSource(), 1e4, noise=20.0)
    stars.set_epoch(7)  # as after a training
    data = CutoutDataModule(
        str(dp2_repo.root), catalog=truth, augmentations=Compose([stars, RandomD4(), AddNoise(3.0)]), **options
    )
    shown, wanted = as_validated(batch, data), inject(batch, InjectSources(PointSource(), 1e4, noise=20.0))
    assert shown.keys() == wanted.keys()
    assert wanted["injected"].any()
    for name, values in wanted.items():
        np.testing.assert_array_equal(shown[name], values)


@pytest.mark.parametrize("data", [None, "another"])
def test_other_batches_stay_as_they_are(data: object) -> None:
    batch = {"image": np.ones((1, 1, 2, 2))}
    assert as_validated(batch, data) is batch
