"""Every block of code of every page and notebook: run on simulated data, or checked where it needs a cluster or a server.

A block of the shell (``sh``) and a program that begins with the name of its file are run in the order of their page, in one
folder. Other programs are run in one name space for each page, with what ``BEFORE`` defines. ``CHECKED`` lists the rest.
"""

import ast
import gc
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread

from lsstcutouts.app.cli import main
from lsstcutouts.errors import PlaneError
from lsstcutouts.read.exports.multimodal import multimodal_examples
from lsstcutouts.testing import SimulatedRepository

from ..support.pages import ROOT, Block, blocks, check_block, commands, pages

DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

CHECKED = {
    "docs/disk-cache.md": ("fill_cache(",),  # fills it from a server
    # The first three need weights; tests/project/test_docs_foundation_models.py runs the last.
    "docs/foundation-models.md": ("HSCImage", "timm", "load_astropt", "# probe.py"),
    "docs/score-a-release.md": ("dask_jobqueue", "my_networks", 'open_catalog("object_hats")'),
    "docs/training.md": ("LightningCLI(",),  # run in tests/loader/test_module_lightning_cli.py
}
"""What unnamed programs that are not run contain: those that need a server, a cluster, or a network of the reader's."""

DATA = "given = {'repo': 'demo/repo', 'collections': 'dp2', 'catalog': 'demo/repo/truth.parquet', 'bands': 'gri'}\n"
MODULE = "from lsstcutouts import CutoutDataModule, SplitOptions\n" + DATA
SIZED = MODULE + "given['size'] = 24\n"
READY = SIZED + "data = CutoutDataModule(**given, batch_size=16, threads=1); data.setup('fit')\n"
FETCHER = (
    "from lsstcutouts import LsstDataFetcher\n"
    "catalog = 'demo/repo/truth.parquet'\n"
    "fetcher = LsstDataFetcher('demo/repo', collections='dp2', bands='gri', size=24)\n"
)
BEFORE = {
    "README.md": "",
    "docs/augmentations.md": MODULE,
    "docs/foundation-models.md": MODULE,
    "docs/geometry.md": FETCHER,
    "docs/index.md": "",
    "docs/laptop.md": "import getpass; getpass.getpass = lambda prompt: ''\n",
    "docs/missing-and-bad.md": "ra, dec = POSITIONS\n",
    "docs/normalisation.md": SIZED,
    "docs/own-grid.md": "ra, dec = POSITIONS\n"
    "import numpy as np; from astropy.io import fits\n"
    "cards = {'CTYPE1': 'RA---TAN', 'CTYPE2': 'DEC--TAN', 'CRVAL1': ra[0], 'CRVAL2': dec[0], 'CRPIX1': 500, 'CRPIX2': 400}\n"
    "header = fits.Header({**cards, 'CDELT1': -8e-5, 'CDELT2': 8e-5})\n"
    "fits.PrimaryHDU(np.zeros((800, 1000)), header).writeto('euclid.fits')\n",
    "docs/psf-matching.md": SIZED,
    "docs/science-platform.md": "",
    "docs/shuffling.md": READY,
    "docs/splits.md": SIZED,
    "docs/training.md": READY
    + "import lsstcutouts, lightning as L; from lsstcutouts.models import LensClassifier, LensFinder\n"
    "data = CutoutDataModule(**given, columns=['label'], threads=1, splits={'train': 0.5, 'val': 0.5})\n"
    "model, quiet = LensClassifier(LensFinder('gri')), {'logger': False, 'enable_progress_bar': False}\n"
    "trainer = L.Trainer(max_epochs=1, limit_train_batches=1, **quiet)\n"
    "trainer.fit(model, data); trainer.save_checkpoint('model.ckpt')\n",
}
"""What the programs of a page begin with."""


def runs_commands(page: str) -> bool:
    return any(block.language == "sh" for block in blocks(page))


def is_checked(block: Block) -> bool:
    return any(words in block.text for words in CHECKED.get(block.page, ()))


@pytest.fixture(scope="module")
def sky(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "demo").mkdir()
    (folder / "demo" / "repo").symlink_to(dp2_repo.root)
    truth = pq.read_table(dp2_repo.truth)
    more = {
        "fold": ["train" if i % 3 else "val" for i in range(len(truth))],
        "mag_i": -2.5 * np.log10(np.maximum(truth["flux_i"].to_numpy(), 1)) + 31.4,
        "snr": np.full(len(truth), 9.0),
    }
    for name, values in more.items():
        truth = truth.append_column(name, [values])
    for name in ("lenses", "new", "targets"):
        pq.write_table(truth, folder / f"{name}.parquet")
    pyarrow.csv.write_csv(truth.slice(0, 40), folder / "train.csv")
    pyarrow.csv.write_csv(truth.slice(40), folder / "val.csv")
    return folder


@pytest.mark.parametrize("page", pages())
def test_what_a_page_names_exists(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page))
    for block in found:
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    for block in found:
        check_block(block)
        if block.language == "python" and not (runs_commands(page) and block.file):
            assert is_checked(block) or page in BEFORE, f"{block}: is run by no test; give {page} an entry in BEFORE"


def test_the_lists_above_name_what_there_is() -> None:
    for page, words in CHECKED.items():
        assert all(sum(one in block.text for block in blocks(page)) == 1 for one in words)
    for page in BEFORE:
        assert any(block.language == "python" for block in blocks(page)), page


@pytest.mark.parametrize("page", BEFORE)
@pytest.mark.filterwarnings("ignore")  # of Lightning, about a sky as small as this one
def test_the_programs_of_a_page_run(
    page: str, sky: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = pq.read_table(sky / "targets.parquet")
    ra, dec = (truth[name][:2].to_pylist() for name in ("ra", "dec"))
    monkeypatch.chdir(sky)
    monkeypatch.setenv("DAF_BUTLER_REPOSITORIES", json.dumps({"dp2": str(sky / "demo" / "repo")}))
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "")
    names: dict[str, Any] = {"POSITIONS": (ra, dec)}
    exec(BEFORE[page], names)
    for block in blocks(page):
        if block.language == "python" and not is_checked(block):
            text = re.sub(r"ra=\[.*?\], dec=\[.*?\]", f"ra={ra}, dec={dec}", block.text)
            text = re.sub(r"ra, dec = \[.*?\], \[.*?\].*", f"ra, dec = {ra}, {dec}", text)
            text = text.replace("CutoutDataModule(..., ", "CutoutDataModule(**given, ")
            text = text.replace("max_epochs=5", "max_epochs=1, enable_progress_bar=False, logger=False")
            exec(compile(text, str(block), "exec"), names)
    if page in RESULTS:
        RESULTS[page](names, capsys.readouterr().out)
    names.clear()
    gc.collect()  # what a program left open warns here, not in another test


def readme(names: dict[str, Any], shown: str) -> None:
    assert names["batch"]["image"].shape[1:] == (3, 64, 64)
    assert "targets, 64 x 64 px" in shown


def science_platform(_: dict[str, Any], shown: str) -> None:
    assert "2 delivered" in shown


RESULTS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": readme,
    "docs/science-platform.md": science_platform,
}


def run(page: str, folder: Path) -> None:
    """Run the commands and named programs of a page, in its order, in a folder."""
    for block in blocks(page):
        if block.language == "sh":
            for _, verb, *settings in commands(block):
                # The examples' networks are too large for a test; one thread leaves the other tests a core.
                extra = ["data.cache_bytes=100 MB", "data.threads=1"] if verb in {"train", "predict"} else []
                assert main([verb, *settings, *extra]) == 0, f"{block}: {verb} {settings}"
        elif block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)  # all of it, as a reader copies it
            definitions = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
            if path.suffix == ".py" and not all(isinstance(one, definitions) for one in ast.parse(block.text).body):
                runpy.run_path(str(path), run_name="__main__")


def own_data(shown: str) -> None:
    assert "delivered" in shown
    kinds, mags, net = (pq.read_table(f"{name}.parquet") for name in ("kinds", "mags", "net"))
    labels = sorted(set(pq.read_table("sky/truth.parquet")["kind"].to_pylist()))
    assert {"predicted", "score", *(f"score_{kind}" for kind in labels)} <= set(kinds.column_names)
    assert set(kinds["predicted"].to_pylist()) <= {*labels, None}
    assert sum(value is not None for value in mags["predicted"].to_pylist()) > 70
    assert all(0 <= value <= 1 for value in net["score"].to_pylist() if value is not None)
    assert 0 < len(pq.read_table("hats.parquet")) <= 80
    for name in ("outputs/train", "outputs/hats", "outputs/kind", "outputs/mag", "outputs/net"):
        assert Path(name, "metrics.json").is_file()
        assert imread(f"{name}/mosaic.png").shape[1] > 500
    assert imread("colours.png").shape[1] > 500


def exports(shown: str) -> None:
    assert "80 rows of 1 partitions compared" in shown


def footprint(shown: str) -> None:
    assert "500 targets, 32 x 32 px" in shown
    assert "500 (500,) [0 1 2]" in shown
    assert Path("simclr.ckpt").is_file()
    rows = pq.read_table("embeddings.parquet")
    assert len(rows) == 80
    assert {len(one) for one in rows["embedding"].to_pylist() if one is not None} == {32}


def share_cutouts(shown: str) -> None:
    assert re.search(r"^\d+ cutouts, \(\d+, 3, 32, 32\) \['g', 'r', 'i'\]$", shown, re.MULTILINE)
    assert re.search(r"^\d+ g \(32, 32\) \d\.\d+ 0\.\d+$", shown, re.MULTILINE)
    rows = pq.read_table("cutouts/cutouts/dataset", partitioning=None)
    catalog = set(pq.read_schema("sky/truth.parquet").names)
    assert set(rows.column_names) - catalog <= set(re.findall(r"`(\w+)`", (DOCS / "share-cutouts.md").read_text()))
    examples = list(multimodal_examples(rows))
    assert len(examples) == len(rows) == 80
    assert [one["object_id"] for one in examples] == list(map(str, rows["object_id"].to_pylist()))
    n = 17
    for b in range(3):
        image = examples[n]["image"][b]
        variance = np.array(rows["variance"][n].as_py(), np.float32)[b]
        valid = np.array(rows["valid"][n].as_py())[b]
        assert np.array_equal(image["mask"], valid)
        assert np.array_equal(image["ivar"], np.where(valid & (variance > 0), 1 / variance, 0).astype(np.float32))
        assert np.array_equal(image["flux"], np.array(rows["flux"][n].as_py(), np.float32)[b])
    with pytest.raises(PlaneError, match="export them"):
        next(multimodal_examples(rows.drop_columns(["variance"])))


def score_a_release(shown: str) -> None:
    assert re.search(r"^\d+ of 80 objects$", shown, re.MULTILINE)
    rows = pq.read_table("scores/predictions/dataset", partitioning=None)
    assert sorted(rows["object_id"].to_pylist()) == sorted(pq.read_table("sky/truth.parquet")["object_id"].to_pylist())
    assert 0 < len(pq.read_table("bright/predictions/dataset", partitioning=None)) < 80
    settings = ["checkpoint=trained/model.ckpt", "catalog=objects", "output=by slurm", "trainer=cpu"]
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "1",
    }
    script = ["bash", str(DOCS / "slurm" / "predict.sbatch"), *settings]
    subprocess.run(script, check=True, env=os.environ | variables, timeout=200, capture_output=True)
    assert json.loads(Path("by slurm/report.json").read_text())["complete"] is True
    table = pq.read_table("by slurm/predictions/dataset", partitioning=None)
    assert table.sort_by("object_id").equals(rows.sort_by("object_id"))


def gallery_pages(shown: str) -> None:
    assert re.search(r"^\d+ targets of 60 rows\n  written: targets.html$", shown, re.MULTILINE)
    assert re.search(r"^60 targets of 60 rows\n  written: all.pdf$", shown, re.MULTILINE)
    assert len(list(Path("pictures").glob("*.png"))) == 5
    assert imread("batch.png").shape[1] == 1500
    assert Path("lenses.pdf").read_bytes().startswith(b"%PDF")


def injection(shown: str) -> None:
    assert re.search(r"^21 < i < 22: \d\.\d\d of \d+ found$", shown, re.MULTILINE)
    scores = pq.read_table("scores.parquet")
    assert sum(value is not None for value in scores["score"].to_pylist()) > 100
    assert set(pq.read_schema("galaxies.parquet").names) == {"object_id", "ra", "dec"}
    assert imread("outputs/lenses/mosaic.png").shape[1] > 500
    gains = [float(gain) for gain in re.findall(r"^[gri] (\d+\.\d+)$", shown, re.MULTILINE)]
    assert len(gains) == 3
    assert all(16 < gain < 24 for gain in gains)


def psf_matching(_: str) -> None:
    (width,) = Path("trained/.lsstcutouts").glob("psf-*.json")
    assert 0.9 < json.loads(width.read_text()) < 1.2
    assert len(pq.read_table("scores.parquet")) == 80


WRITTEN = {
    "docs/exports.md": exports,
    "docs/footprint.md": footprint,
    "docs/gallery.md": gallery_pages,
    "docs/injection.md": injection,
    "docs/own-data.md": own_data,
    "docs/psf-matching.md": psf_matching,
    "docs/score-a-release.md": score_a_release,
    "docs/share-cutouts.md": share_cutouts,
}
"""What the results of a page are tested by."""


def test_every_page_with_commands_has_its_test() -> None:
    assert {page for page in pages() if runs_commands(page)} == {
        *WRITTEN,
        "docs/foundation-models.md",  # tests/project/test_docs_foundation_models.py
        "docs/label.md",  # tests/project/test_docs_label.py
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", WRITTEN)
@pytest.mark.filterwarnings("ignore")  # of Lightning, Dask and pandas, about a sky as small as this one
def test_the_commands_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as python FILE does
    run(page, tmp_path)
    WRITTEN[page](capsys.readouterr().out)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_names_what_there_is(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)
    text = "\n".join("".join(cell["source"]) for cell in code)
    check_block(Block(path.name, 0, "python", text))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem != "science-platform"], ids=lambda path: path.stem
)
@pytest.mark.filterwarnings("ignore")  # of Lightning, about a sky as small as this one
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fewer targets and in fewer epochs; tests/project/test_docs_remote.py runs the one of the platform."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    text, simulations = re.subn(r"targets=\d+", "targets=160", text)
    assert simulations == 1
    exec(compile(re.sub(r"max_epochs=\d+", "max_epochs=1", text), path.name, "exec"), {"__name__": "__main__"})
    plt.close("all")
