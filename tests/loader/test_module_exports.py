"""A training from an export sees the batches of a training from the repository, bit for bit, in the same order."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import lsdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts import CutoutDataset, CutoutLoader, ReadOptions, SplitOptions, build_plan, export_plan
from lsstcutouts.app.cli import main
from lsstcutouts.errors import ConfigurationError, PlanError
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.order.world import World
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import MatchPsf, NoiseAsinh

from ..support.exported import assert_equal_batches, exported

PLANES = ("image", "variance", "ivar", "valid", "mask", "psf")
COMMON: dict[str, Any] = {
    "planes": PLANES,
    "columns": ["label", "kind", "flux_i"],
    "batch_size": 7,
    "threads": 2,
    "seed": 3,
    "read": ReadOptions(mask_planes=("DETECTED", "SATURATED")),
    "splits": {"train": 0.6, "val": 0.2, "test": 0.2},
}


@pytest.fixture(scope="module")
def folder(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(dp2_repo, tmp_path_factory.mktemp("exports") / "of a table")


def both(repo: SimulatedRepository, folder: Path, **changes: Any) -> tuple[CutoutDataModule, CutoutDataModule]:
    settings = COMMON | changes
    one = CutoutDataModule(repo.root, "dp2", repo.truth, "gri", (24, 31), **settings)
    other = CutoutDataModule(str(folder), **settings)
    for data in (one, other):
        data.setup()
    return one, other


def batches(loader: Any, count: int | None = None) -> list[dict[str, Any]]:
    found = []
    for batch in loader:
        found.append(
            {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        )
        if len(found) == count:
            break
    return found


def assert_all_equal(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> None:
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert_equal_batches(left, right)


def test_two_epochs_of_all_splits_are_equal(dp2_repo: SimulatedRepository, folder: Path) -> None:
    one, other = both(dp2_repo, folder)
    assert other.bands == ("g", "r", "i")
    assert other.collections == ("dp2",)
    for split, (plan, rows) in one.splits.items():
        np.testing.assert_array_equal(rows, other.splits[split][1])
        assert plan.fingerprint() == other.splits[split][0].fingerprint()
    loaders = one.train_dataloader(), other.train_dataloader()
    for _ in range(2):
        assert_all_equal(*map(batches, loaders))
    assert_all_equal(batches(one.val_dataloader()), batches(other.val_dataloader()))
    assert_all_equal(batches(one.test_dataloader()), batches(other.test_dataloader()))
    assert one.report().as_dict() == other.report().as_dict()
    assert "missing" in str(one.plan.summary())


def test_a_training_resumes_from_a_repository_on_an_export(dp2_repo: SimulatedRepository, folder: Path) -> None:
    one, other = both(dp2_repo, folder)
    whole = batches(one.train_dataloader())
    begun, _ = both(dp2_repo, folder)
    first = batches(loader := begun.train_dataloader(), 2)
    resumed = other.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert_all_equal(whole, first + batches(resumed))


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_read_the_same(dp2_repo: SimulatedRepository, folder: Path, rank: int) -> None:
    read, columns = ReadOptions(missing_band="nan", fill="noise"), ("kind",)
    common: dict[str, Any] = {
        "batch_size": 5,
        "planes": ("image", "valid"),
        "read": read,
        "world": World(rank, 2),
        "threads": 1,
    }
    plans = (
        build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="ir", size=(11, 14), columns=columns),
        export_plan(folder, bands="ir", size=(11, 14), columns=columns),
    )
    loaders = [CutoutLoader(CutoutDataset(plan, **common)) for plan in plans]
    assert_all_equal(*map(batches, loaders))
    assert loaders[0].report.as_dict() == loaders[1].report.as_dict()


@pytest.mark.slow
def test_worker_processes_read_exports(folder: Path) -> None:
    data = CutoutDataModule(str(folder), **COMMON | {"num_workers": 0})
    workers = CutoutDataModule(str(folder), **COMMON | {"num_workers": 2, "threads": 1})
    for one in (data, workers):
        one.setup()
    assert_all_equal(batches(data.train_dataloader()), batches(workers.train_dataloader()))


class Sums(L.LightningModule):
    """Learns nothing, and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, float]] = []

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        sums = batch["image"].double().sum(dim=(1, 2, 3)).tolist()
        self.seen += list(zip(batch["object_id"].tolist(), sums, strict=True))
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")
def test_a_second_trainer_and_a_checkpoint(folder: Path, dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "threads": 1, "splits": {"train": 1.0}}
    seen = []
    for arguments in ((str(folder),), (str(folder),), (dp2_repo.root, "dp2", dp2_repo.truth, "gri", (24, 31))):
        model, data = Sums(), CutoutDataModule(*arguments, **settings)
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            limit_val_batches=0,
        )
        trainer.fit(model, data)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        seen.append(model.seen)
    assert seen[0] == seen[1] == seen[2]
    # Of the repository, then used on the export, and the other way round.
    again = CutoutDataModule.load_from_checkpoint(
        tmp_path / "last.ckpt", repo=str(folder), collections=None, catalog=None
    )
    assert again.bands == ("g", "r", "i")
    assert len(list((tmp_path / ".lsstcutouts").glob("plan-all-*.parquet"))) == 2


def test_a_hats_catalog_with_rows_outside(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    frame = pq.read_table(dp2_repo.truth).to_pandas()
    far = frame[:60].assign(object_id=frame.object_id[:60] + 10**6, ra=lambda f: f.ra + np.arange(60) / 10)
    catalog = lsdb.from_dataframe(pd.concat([frame, far]), partition_rows=90, highest_order=5)
    catalog.write_catalog(tmp_path / "hats", catalog_name="objects", progress_bar=False)
    folder = exported(dp2_repo, tmp_path / "export", tmp_path / "hats", planes=("image",), read=ReadOptions())
    columns = ("label", "flux_i", "kind")
    for select in (None, "flux_i > 100"):
        plan = build_plan(
            dp2_repo.root, tmp_path / "hats", collections="dp2", bands="gri", size=(24, 31), columns=columns
        )
        mine = export_plan(folder, columns=columns)
        assert plan.fingerprint() == mine.fingerprint()
        for name in ("row", "reason", "tract", "patch", "ra"):
            np.testing.assert_array_equal(getattr(plan.rejected, name), getattr(mine.rejected, name))
        for name in columns:
            np.testing.assert_array_equal(plan.columns[name], mine.columns[name])
            np.testing.assert_array_equal(plan.rejected.columns[name], mine.rejected.columns[name])
        assert len(plan.rejected) >= 59
        splits = {"shares": {"train": 0.5, "val": 0.5}, "select": select}
        data = [
            CutoutDataModule(
                dp2_repo.root, "dp2", tmp_path / "hats", "gri", (24, 31), splits=SplitOptions(**splits), columns=columns
            ),
            CutoutDataModule(str(folder), splits=SplitOptions(**splits), columns=columns),
        ]
        for one in data:
            one.setup()
        assert_all_equal(*(batches(one.train_dataloader()) for one in data))


def test_settings_that_an_export_cannot_meet(dp2_repo: SimulatedRepository, folder: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"catalog": dp2_repo.truth}, "has its own targets"),
        ({"collections": "dp1"}, "is from"),
        ({"dataset_type": "template_coadd"}, "is from"),
        ({"bands": "gz"}, "has no band 'z'; it has g, r, i"),
        ({"size": 32}, "larger than the cutouts of the export"),
        ({"planes": ("mask",), "read": ReadOptions(mask_planes=("STREAK",))}, "has no mask plane 'STREAK'"),
        ({"read": ReadOptions(flux_unit="native")}, "flux_unit='nJy'"),
        ({"read": ReadOptions(fill="nan")}, "fill=0; give that, or fill='noise'"),
        ({"planes": ("psf",), "read": ReadOptions(normalise_psf=True)}, "normalise_psf=False"),
        ({"read": ReadOptions(required_bands=("z",))}, "not one of the bands"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            CutoutDataModule(str(folder), **changes)
    with pytest.raises(ConfigurationError, match="also needs collections=, catalog=, bands=, size="):
        CutoutDataModule(str(tmp_path))
    with pytest.raises(ConfigurationError, match="also needs catalog="):
        CutoutDataModule(dp2_repo.root, "dp2", bands="g", size=8)


def test_a_plan_belongs_to_its_pixels(dp2_repo: SimulatedRepository, folder: Path, tmp_path: Path) -> None:
    export_plan(folder).save(tmp_path / "plan.parquet")
    data = CutoutDataModule(str(folder), plan=tmp_path / "plan.parquet")
    data.setup()
    data = CutoutDataModule(dp2_repo.root, "dp2", None, "gri", (24, 31), plan=tmp_path / "plan.parquet")
    with pytest.raises(PlanError, match="pixels of the export"):
        data.setup()


def test_an_incomplete_export_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(folder, copy)
    (copy / "files.json").unlink()
    data = CutoutDataModule(str(copy))
    with pytest.raises(PlanError, match=r"not complete: \d+ partitions are finished"):
        data.setup()
    (copy / "files.json").touch()
    next((copy / "finished").iterdir()).unlink()
    with pytest.raises(PlanError, match=r"hats\.properties counts 80"):
        CutoutDataModule(str(copy)).setup()


@pytest.mark.slow
def test_the_commands_train_and_predict(dp2_repo: SimulatedRepository, folder: Path, tmp_path: Path) -> None:
    """The same network comes out of the export and of the repository, and its predictions are equal."""
    common = ["trainer.max_epochs=1", "data.batch_size=16", "data.threads=1", "picture=false", "json=true", "seed=1"]
    common += ["data.planes=[image,variance,valid]", "normalisation=noise_asinh"]
    own = {
        "export": [f"data.repo={folder}"],
        "repository": [
            f"data.repo={dp2_repo.root}",
            "data.collections=dp2",
            f"data.catalog={dp2_repo.truth}",
            "data.bands=gri",
            "data.size=[24,31]",
        ],
    }
    tables = {}
    for name, source in own.items():
        assert main(["train", *source, *common, f"output={tmp_path / name}"]) == 0
        output = tmp_path / f"{name}.parquet"
        picked = [one for one in source if "bands" not in one and "size" not in one]
        assert (
            main(
                [
                    "predict",
                    f"checkpoint={tmp_path / name / 'model.ckpt'}",
                    *picked,
                    f"output={output}",
                    "picture=false",
                ]
            )
            == 0
        )
        tables[name] = pq.read_table(output)
    weights = [torch.load(tmp_path / name / "model.ckpt", weights_only=True)["state_dict"] for name in own]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert tables["export"].equals(tables["repository"])
    # A network of the repository predicts from the export, and with the data of its own training.
    output = tmp_path / "other.parquet"
    checkpoint = f"checkpoint={tmp_path / 'repository' / 'model.ckpt'}"
    assert main(["predict", checkpoint, f"data.repo={folder}", f"output={output}", "picture=false"]) == 0
    assert pq.read_table(output).equals(tables["export"])
    checkpoint = f"checkpoint={tmp_path / 'export' / 'model.ckpt'}"
    assert main(["predict", checkpoint, f"output={output}", "picture=false"]) == 0
    assert pq.read_table(output).equals(tables["export"])


def test_plans_are_dataclasses_without_surprises(folder: Path) -> None:
    plan = export_plan(folder, columns=("kind",))
    assert dataclasses.replace(plan).fingerprint() == plan.fingerprint()
    assert plan.pixels is not None
    assert not plan.files.remote


def test_statistics_and_widths_are_fitted_to_an_export_whose_invalid_pixels_are_nan(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    read = ReadOptions(fill=math.nan)
    folder = exported(dp2_repo, tmp_path / "nan", planes=("image", "variance", "valid", "psf"), read=read)
    fitted: dict[str, Any] = {"planes": ("image", "psf"), "columns": (), "read": read}
    one, other = (
        data_of(augmentations=MatchPsf(), normalisation=NoiseAsinh(), **{**COMMON, **fitted})
        for data_of in (
            functools.partial(CutoutDataModule, dp2_repo.root, "dp2", dp2_repo.truth, "gri", (24, 31)),
            functools.partial(CutoutDataModule, str(folder)),
        )
    )
    for data in (one, other):
        data.setup()
    assert one.statistics is not None
    assert other.statistics is not None
    assert one.statistics.bands == other.statistics.bands
    assert one.augmentations.fwhm == other.augmentations.fwhm


def test_an_export_without_what_the_statistics_need_says_so(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    folder = exported(dp2_repo, tmp_path / "lacking", planes=("image", "psf"), read=ReadOptions())
    settings: dict[str, Any] = {**COMMON, "planes": ("image", "psf"), "columns": (), "read": ReadOptions()}
    data = CutoutDataModule(str(folder), normalisation=NoiseAsinh(), **settings)
    with pytest.raises(
        ConfigurationError, match=r"statistics of a normalisation need image and valid.* or give .*statistics="
    ):
        data.setup()
