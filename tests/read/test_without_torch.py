"""The NumPy product works where torch and Lightning cannot be imported: fetch, plan and FITS files."""

import subprocess
import sys
from pathlib import Path

from lsstcutouts.testing import SimulatedRepository

PROGRAM = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning", "pytorch_lightning", "torchmetrics"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refused())
from lsstcutouts import Catalog, CutoutPlan, LsstDataFetcher, ReadOptions, batch_wcs, build_plan, write_fits

repo, folder = sys.argv[1:]
catalog = Catalog.from_any(f"{repo}/truth.parquet", columns=("label",))
plan = build_plan(repo, catalog, collections="dp2", bands="gri", size=16, columns=("label",))
plan.save(f"{folder}/plan.parquet")
plan = CutoutPlan.load(f"{folder}/plan.parquet")
read = ReadOptions(missing_band="nan", mask_planes=("NO_DATA",))
planes = ("image", "variance", "mask", "valid", "psf")
with LsstDataFetcher(repo, collections="dp2", bands="gri", size=16, planes=planes, read=read) as fetcher:
    batch = fetcher.fetch_plan(plan, rows=range(3))
    paths = fetcher.write_fits(batch, f"{folder}/cutouts")
print(batch["image"].shape, len(paths), batch_wcs(batch, 0).naxis, len(fetcher.report.outcome))
"""


def test_fetching_planning_and_writing_need_no_torch(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(dp2_repo.root), str(tmp_path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    slow = "loading the kernels"  # said on a busy machine
    assert [line for line in result.stderr.splitlines() if not line.startswith(slow)] == []
    assert result.stdout == "(3, 3, 16, 16) 3 2 3\n"
