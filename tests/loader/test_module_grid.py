"""The data module on your own pixel grid: trainings, workers, ranks, resume, checkpoints, and what is refused."""

import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS

from lsstcutouts import CutoutDataset, CutoutLoader, Grid, ReadOptions, build_plan, export, gallery, write_fits
from lsstcutouts.errors import ConfigurationError, PlanError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.order.world import World
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import NoiseAsinh, RandomD4

GRID = Grid(north_up=True, pixel_scale=0.25)
COMMON = {"bands": "gri", "size": 24, "batch_size": 8, "columns": ("label",), "threads": 2, "cache_bytes": "50 MB"}


def data_of(repo: SimulatedRepository, **changes) -> CutoutDataModule:
    settings = {**COMMON, "splits": {"train": 0.5, "val": 0.5}, "read": ReadOptions(grid=GRID), **changes}
    return CutoutDataModule(str(repo.root), repo.collections, str(repo.truth), **settings)


def images_of(loader) -> dict[int, torch.Tensor]:
    found = {}
    for batch in loader:
        kept = ~batch["is_padding"]
        found |= dict(zip(batch["object_id"][kept].tolist(), batch["image"][kept], strict=True))
    return found


def assert_equal(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for identity, image in one.items():
        torch.testing.assert_close(image, other[identity], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_a_training_and_its_checkpoint(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    data = data_of(dp2_repo, normalisation=NoiseAsinh(sample=20), augmentations=RandomD4())
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(LensClassifier(LensFinder("gri")), data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = CutoutDataModule.load_from_checkpoint(tmp_path / "one.ckpt")
    assert again.read == data.read
    again.setup("fit")
    assert again.plan.fingerprint() == data.plan.fingerprint()
    assert data.normalisation.statistics.pixel_scale == pytest.approx((0.25, 0.25))
    for other in (
        ReadOptions(),
        ReadOptions(grid=Grid(north_up=True)),
        ReadOptions(grid=Grid(north_up=True, pixel_scale=0.25, interpolation="bilinear")),
    ):
        with pytest.raises(ConfigurationError, match="grid: Grid"):
            CutoutDataModule.load_from_checkpoint(tmp_path / "one.ckpt", read=other)


def test_workers_ranks_and_resume_change_no_pixel(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(
        str(dp2_repo.root),
        str(dp2_repo.truth),
        collections=dp2_repo.collections,
        bands="gri",
        size=24,
        read=ReadOptions(grid=GRID),
    )

    def loader(workers: int = 0, rank: int = 0, ranks: int = 1, threads: int = 2) -> CutoutLoader:
        dataset = CutoutDataset(
            plan, batch_size=8, world=World(rank, ranks), threads=threads, read=ReadOptions(grid=GRID)
        )
        return CutoutLoader(dataset, num_workers=workers)

    whole = images_of(loader())
    assert len(whole) == len(plan)
    assert_equal(images_of(loader(threads=1)), whole)
    assert_equal(images_of(loader(workers=2)), whole)
    assert_equal(images_of(loader(rank=0, ranks=2)) | images_of(loader(rank=1, ranks=2)), whole)
    first, seen = loader(), {}
    for _, batch in zip(range(3), first, strict=False):
        seen |= dict(zip(batch["object_id"].tolist(), batch["image"], strict=True))
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert_equal(seen | images_of(second), whole)


def test_settings_and_plan_must_agree(dp2_repo: SimulatedRepository) -> None:
    arguments = {"collections": dp2_repo.collections, "bands": "gri", "size": 24, "columns": ("label",)}
    plain = build_plan(str(dp2_repo.root), str(dp2_repo.truth), **arguments)
    gridded = build_plan(str(dp2_repo.root), str(dp2_repo.truth), read=ReadOptions(grid=GRID), **arguments)
    for plan, read in (
        (plain, ReadOptions(grid=GRID)),
        (gridded, ReadOptions()),
        (gridded, ReadOptions(grid=Grid(north_up=True))),
    ):
        with pytest.raises(PlanError, match="make the plan again"):
            data_of(dp2_repo, plan=plan, read=read).setup("fit")
    with pytest.raises(PlanError, match=r"the plan is for the pixel grid of the tract, but read\.grid is Grid"):
        CutoutDataset(plain, read=ReadOptions(grid=GRID))
    data = data_of(dp2_repo, plan=gridded)
    data.setup("fit")
    assert data.plan is gridded


def test_exports_have_the_pixels_of_the_tract(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    arguments = {"collections": dp2_repo.collections, "bands": "gri", "size": 24}
    with pytest.raises(ConfigurationError, match=r"on the pixel grid of the tract; leave out read\.grid"):
        export(str(dp2_repo.truth), str(dp2_repo.root), tmp_path / "one", read=ReadOptions(grid=GRID), **arguments)
    export(str(dp2_repo.truth), str(dp2_repo.root), tmp_path / "two", progress=False, **arguments)
    data = CutoutDataModule(
        str(tmp_path / "two"), read=ReadOptions(grid=GRID), **{k: v for k, v in COMMON.items() if k != "columns"}
    )
    with pytest.raises(ConfigurationError, match=r"read\.grid does not work with repo="):
        data.setup("fit")


def test_galleries_and_files(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    read = ReadOptions(grid=GRID)
    gallery(
        str(dp2_repo.truth),
        str(tmp_path / "one.html"),
        repo=str(dp2_repo.root),
        collections="dp2",
        bands="gri",
        size=24,
        read=read,
        limit=3,
    )
    assert (tmp_path / "one.html").stat().st_size > 10_000
    data = data_of(dp2_repo)
    data.setup("fit")
    loader = data.val_dataloader()
    batch = next(iter(loader))
    paths = write_fits(batch, tmp_path / "files", data.plan)
    with fits.open(paths[0]) as hdus:
        wcs = WCS(hdus["IMAGE_R"].header)
        x, y = wcs.all_world2pix(float(batch["ra"][0]), float(batch["dec"][0]), 0)
        np.testing.assert_allclose([x, y], 11.5, atol=1e-6)
        assert hdus["IMAGE_R"].header["WCSNAMEA"] == "GRID"
    plain = build_plan(str(dp2_repo.root), str(dp2_repo.truth), collections="dp2", bands="gri", size=24)
    with pytest.raises(ConfigurationError, match="another box or pixel grid"):
        write_fits(batch, tmp_path / "others", plain)
