"""Cutouts a second of this package and of the loop that one would write today, on one full-size DP2 patch.

    python -m tests.throughput FOLDER [TARGETS]

Writes the repository into FOLDER on first use (about a minute, 200 MB), checks that both give the same pixels, and
prints the figures. Both run in the same process, ours with one thread and with all cores; files are in the page cache.
"""

import sys
import time
from pathlib import Path

import numpy as np
from lsst.daf.butler import Butler
from lsst.images import Box
from rich.console import Console
from rich.table import Table

from lsstcutouts import CutoutPlan, LsstDataFetcher, build_plan
from lsstcutouts.cutout import default_threads
from lsstcutouts.simulate import SimulationConfig, simulate

SIZE, BANDS = 64, "ugrizy"


def plan_of(folder: Path, targets: int) -> CutoutPlan:
    root = folder / "full"
    if not root.exists():
        simulate(root, SimulationConfig(cells=20, patches=1, targets=targets, missing=None), progress=True)
    return build_plan(root / "truth.parquet", root, collections="dp2", bands=BANDS, size=SIZE)


def by_butler(plan: CutoutPlan, targets: list[int]) -> tuple[np.ndarray, float]:
    """Return images ``(N, B, Y, X)`` and seconds of a plain loop over `butler.get` with a bbox, by resolved ref."""
    with Butler.from_config(plan.repo, collections=plan.collections) as butler:
        found = butler.query_datasets(plan.dataset_type, limit=None)
        refs = {(r.dataId["patch"], r.dataId["band"]): r.makeComponentRef("image") for r in found}
        images = np.zeros((len(targets), len(plan.bands), SIZE, SIZE), np.float32)
        start = time.perf_counter()
        for n, target in enumerate(targets):
            y, x = plan.yx0[target].tolist()
            bbox = Box.factory[y : y + SIZE, x : x + SIZE]
            for b, band in enumerate(plan.bands):
                ref = refs[int(plan.patch[target]), band]
                images[n, b] = butler.get(ref, parameters={"bbox": bbox}).array
        return images, time.perf_counter() - start


def by_fetcher(plan: CutoutPlan, targets: np.ndarray, threads: int) -> tuple[np.ndarray, float, float]:
    """Return images and seconds of a pass with no decoded tile in the cache, and of one more; in batches, as in training."""
    options = {"collections": plan.collections, "bands": plan.bands, "size": SIZE, "cache_bytes": "2 GB"}
    with LsstDataFetcher(plan.repo, threads=threads, **options) as fetcher:
        batches = [targets[i : i + 125] for i in range(0, len(targets), 125)]
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            images = [fetcher.fetch_plan(plan, batch)["image"] for batch in batches]
            seconds.append(time.perf_counter() - start)
        return np.concatenate(images), *seconds


def inside(plan: CutoutPlan) -> np.ndarray:
    """Return the targets whose box lies in their primary patch's own file: a bbox that leaves it makes `get` raise."""
    from lsstcutouts.fits import open_coadd

    boxes = {}
    for patch in np.unique(plan.primary).tolist():
        files = plan.patches.files[patch]
        if (files >= 0).all():
            with open_coadd(plan.files.uri[files[0]]) as coadd:
                boxes[patch] = coadd.bbox
    ok = [
        (b := boxes.get(p)) is not None and b.y0 <= y and y + SIZE <= b.y1 and b.x0 <= x and x + SIZE <= b.x1
        for p, (y, x) in zip(plan.primary.tolist(), plan.yx0.tolist(), strict=True)
    ]
    return np.flatnonzero(ok)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500
    plan = plan_of(folder, count + 100)
    targets = inside(plan)[:count]
    few = targets[:: max(1, len(targets) // 60)].tolist()
    reference, seconds = by_butler(plan, few)
    plain = len(few) / seconds
    table = Table(title=f"{len(targets)} targets of one full-size DP2 patch, {BANDS}, {SIZE} px")
    for heading in ("way", "threads", "cutouts/s", "times butler.get"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    table.add_row(f"butler.get loop ({len(few)} targets)", "1", f"{plain:,.1f}", "1")
    for threads in sorted({1, default_threads()}):
        runs = [by_fetcher(plan, targets, threads) for _ in range(5)]
        place = np.searchsorted(targets, few)
        np.testing.assert_array_equal(runs[0][0][place], reference)
        for name, k in (("ours, cold cache", 1), ("ours, warm cache", 2)):
            rate = len(targets) / float(np.median([run[k] for run in runs]))
            table.add_row(name, str(threads), f"{rate:,.0f}", f"{rate / plain:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
