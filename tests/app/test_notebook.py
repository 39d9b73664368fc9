"""In a Jupyter kernel: what the value of a cell is displayed as, and that a cell that was interrupted does no harm."""

import pickle
from collections.abc import Iterator

import pytest

from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import NoiseAsinh

from ..support.kernel import Kernel, running_kernel

pytestmark = pytest.mark.system

START = """
import asyncio, itertools, logging
import hats  # an interrupted import of it stays broken: Python leaves its modules half made
import lightning as L, numpy as np, torch
from lsstcutouts import (
    Catalog, CutoutDataModule, CutoutDataset, CutoutLoader, CutoutPlan, LsstDataFetcher, ReadOptions, Report
)
from lsstcutouts.bulk.exporting import export
from lsstcutouts.transforms import NoiseAsinh
from lsstcutouts.transforms.fit import fit_statistics

asyncio.get_running_loop()  # that of the kernel
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
repo, catalog = {repo!r}, {catalog!r}
plan = CutoutPlan.load({plan!r})
every = np.arange(len(plan))
fetcher = LsstDataFetcher(repo, collections="dp2", bands="gri", size=24, threads=2, cache_bytes="50 MB")
pixels = fetcher.fetch_plan(plan)["image"]
loader = CutoutLoader(CutoutDataset(plan, batch_size=8, threads=2, cache_bytes="50 MB"), num_workers=2)
settings = dict(collections="dp2", bands="gri", size=24)
data = CutoutDataModule(
    repo, catalog=catalog, batch_size=8, threads=2, cache_bytes="50 MB", splits={{"train": 1.0}},
    normalisation=NoiseAsinh(), **settings,
)

def read(batches):
    rows = []
    for batch in batches:
        rows += plan.targets_of(batch["object_id"]).tolist()
        assert np.array_equal(batch["image"], pixels[rows[-len(batch["image"]):]])
    assert sorted(rows) == every.tolist()

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def training_step(self, batch, number):
        print("reading", number)
        return self.layer(batch["image"].mean((2, 3))).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.001)

def fit(epochs):
    L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Model(), datamodule=data)
"""

INTERRUPTED = {
    "loader": (
        "for batch in itertools.chain.from_iterable(itertools.repeat(loader)): print('reading')",
        "read(loader)",
    ),
    "fetch": (
        "while True: fetcher.refresh(); print('reading'); fetcher.fetch_plan(plan)",
        "read([fetcher.fetch_plan(plan)])",
    ),
    "export": (
        "for i in itertools.count(): print('reading'); export(catalog, repo, f'out{i}', **settings)",
        """
export(catalog, repo, f'out{i}', **settings)
exported = CutoutDataModule(f'out{i}', batch_size=8, splits={'train': 1.0})
exported.setup()
read(exported.train_dataloader())
""",
    ),
    "statistics": (
        "while True: print('reading'); fit_statistics(plan, every)",
        "assert fit_statistics(plan, every).targets == len(plan)",
    ),
    "fit": ("fit(-1)", "fit(1); read(data.train_dataloader())"),
}
"""What is interrupted, and what must succeed afterwards."""


@pytest.fixture(scope="module")
def kernel(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24)
    plan.save(folder / "plan.parquet")
    with running_kernel(folder) as one:
        one.run(
            START.format(repo=str(dp2_repo.root), catalog=str(dp2_repo.truth), plan=str(folder / "plan.parquet")),
            timeout=240,
        )
        yield one


@pytest.mark.parametrize(
    "value",
    [
        "fetcher",
        "plan",
        "data",
        "fetcher.report",
        "fit_statistics(plan, every, progress=False)",
        "Catalog.from_any(catalog)",
    ],
)
def test_values_are_displayed_as_tables(kernel: Kernel, value: str) -> None:
    (shown,) = kernel.run(value).shown
    assert shown["text/html"].startswith("<div><b>")
    assert len(shown["text/plain"]) < 2000


def test_long_calls_show_a_bar(kernel: Kernel) -> None:
    assert kernel.run("_ = fit_statistics(plan, every)").shown
    assert not kernel.run("_ = fit_statistics(plan, every, progress=False)").shown


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot", "%matplotlib inline"])
def test_figures_are_displayed_once(kernel: Kernel, before: str) -> None:
    kernel.run(before)
    for value in ("plan.plot()", "fetcher.report.plot()"):
        (shown,) = kernel.run(value).shown
        assert set(shown) == {"text/plain", "image/png"}
    assert not kernel.run("figure = plan.plot()").shown


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_cell_does_no_harm(kernel: Kernel, name: str) -> None:
    code, then = INTERRUPTED[name]
    # Lightning ends the program after Ctrl-C, which a kernel does not let it.
    kernel.run(code, at="reading", error="SystemExit" if name == "fit" else "KeyboardInterrupt")
    kernel.run(then)
    assert len(kernel.children()) <= 4  # the fork server, its resource tracker, and the workers that the loader keeps


def test_tables_need_no_setup_and_survive_pickling_and_closing(dp2_repo: SimulatedRepository) -> None:
    settings = {"collections": "dp2", "bands": "gri", "size": ("4 arcsec", "5 arcsec")}
    catalog = Catalog.from_any(dp2_repo.truth)
    data = CutoutDataModule("/no/<repository>", catalog=catalog, normalisation=NoiseAsinh(), **settings)
    assert "/no/&lt;repository&gt;" in data._repr_html_()
    assert "known after setup()" in data._repr_html_()
    fetcher = LsstDataFetcher(dp2_repo.root, **settings)
    assert "4 x 5 arcsec" in fetcher._repr_html_()
    fetcher.fetch(catalog.ra[:3], catalog.dec[:3])
    assert "3 of 3 rows delivered" in fetcher._repr_html_()
    plan = fetcher.plan(catalog)
    fetcher.close()
    for one in (data, fetcher, plan, fetcher.report, catalog):
        assert type(one).__name__ in one._repr_html_()
        assert type(one).__name__ in pickle.loads(pickle.dumps(one))._repr_html_()


def test_a_catalog_across_ra_0_is_shown_in_one_piece() -> None:
    assert "-1.0000 to 1.0000" in Catalog.from_arrays([359.0, 1.0], [0.0, 0.0])._repr_html_()
    many = Catalog.from_arrays([10.0], [0.0], ["a"]).take([0] * 10_000)
    assert len(repr(many)) < 200
    assert "10,000" in many._repr_html_()
    assert "none" in many[:0]._repr_html_()
