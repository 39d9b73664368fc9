"""Plans and trainings of a HATS catalog are those of the same rows as one Parquet file."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import lsdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts.app.cli import main
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from .test_hats_table import as_parquet, partitions

COLUMNS = ["label", "flux_i"]


@pytest.fixture(scope="module")
def targets(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 80 targets and 60 rows outside the coverage: ``hats``, and ``rows.parquet`` with the same rows."""
    folder = tmp_path_factory.mktemp("targets")
    frame = pq.read_table(dp2_repo.truth).to_pandas()
    far = frame[:60].assign(object_id=frame.object_id[:60] + 10**6, ra=lambda f: f.ra + np.arange(60) / 10)
    catalog = lsdb.from_dataframe(pd.concat([frame, far]), partition_rows=90, highest_order=5)
    catalog.write_catalog(folder / "hats", catalog_name="objects", progress_bar=False)
    assert len(partitions(folder / "hats" / "objects")) >= 3
    as_parquet(folder / "hats" / "objects", folder / "rows.parquet")
    return folder


def test_plans_are_equal(dp2_repo: SimulatedRepository, targets: Path) -> None:
    arguments: dict[str, Any] = {"collections": "dp2", "bands": "gri", "size": 24, "columns": COLUMNS}
    middle = pq.read_table(targets / "rows.parquet").to_pandas()[["ra", "dec"]].median()
    for subset in ({}, {"select": "flux_i > 100 and kind != 'star'"}, {"cone": [middle.ra, middle.dec, 0.01]}):
        plain = build_plan(dp2_repo.root, {"path": targets / "rows.parquet", **subset}, **arguments)
        assert len(plain) + len(plain.rejected) == 140 if not subset else 0 < len(plain) < 80
        for path in (targets / "hats", targets / "hats" / "objects"):
            plan = build_plan(dp2_repo.root, {"path": path, **subset}, **arguments)
            assert plan.fingerprint() == plain.fingerprint()
            for name in COLUMNS:
                np.testing.assert_array_equal(plan.columns[name], plain.columns[name])
    plan = build_plan(dp2_repo.root, lsdb.open_catalog(targets / "hats"), **arguments)
    assert plan.fingerprint() == build_plan(dp2_repo.root, targets / "rows.parquet", **arguments).fingerprint()


class Ids(L.LightningModule):
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


def seen(repo: SimulatedRepository, folder: Path, catalog: Any, epochs: int, resume: Path | None = None) -> list[Any]:
    model = Ids()
    data = CutoutDataModule(
        repo.root,
        "dp2",
        catalog,
        "gri",
        24,
        columns=COLUMNS,
        batch_size=7,
        threads=1,
        splits={"train": 0.7, "val": 0.3},
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        limit_val_batches=0,
    )
    trainer.fit(model, data, ckpt_path=None if resume is None else str(resume), weights_only=None)
    trainer.save_checkpoint(folder / "last.ckpt")
    return model.seen


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")
def test_trainings_see_the_same_batches_and_resume(
    dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path
) -> None:
    for subset in ({}, {"select": "flux_i > 100"}):
        plain = seen(dp2_repo, tmp_path, {"path": str(targets / "rows.parquet"), **subset}, 2)
        first = seen(dp2_repo, tmp_path, {"path": str(targets / "hats"), **subset}, 1)
        again = seen(dp2_repo, tmp_path, {"path": str(targets / "hats"), **subset}, 2, tmp_path / "last.ckpt")
        assert first + again == plain
        assert len(plain) > 20


def test_the_verb_plan_takes_a_subset(
    dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for catalog in ("rows.parquet", "hats"):
        given = [f"repo={dp2_repo.root}", "collections=dp2", f"catalog={targets / catalog}", "bands=gri", "size=24"]
        subset = ["select='flux_i > 100'", "cone=[53.06,-27.7,2]", "columns=[label]", "json=true"]
        assert main(["plan", *given, *subset]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert 0 < found[0]["targets"] < 140
    assert main(["plan", *given, "select='flux > 100'"]) != 0
    assert "did you mean flux_" in capsys.readouterr().err
