"""Galleries in each form: which files, which targets in which order, which captions, and what is said."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lsstcutouts import Quality, ReadOptions, build_plan, gallery
from lsstcutouts.app.cli import main
from lsstcutouts.errors import ConfigurationError, CoverageError, ReadError, WriteError
from lsstcutouts.testing import SimulatedRepository

from ..support.exported import exported
from ..support.faulty import copied, file_of
from ..support.oracle import expected

PAGES = re.compile(rb"/Type /Page\b")


def draw(dp2: SimulatedRepository, output: Path, catalog: Any = None, **changes: Any) -> Any:
    given = {"repo": dp2.root, "collections": dp2.collections, "bands": "gri", "size": (24, 30), "threads": 1}
    return gallery(dp2.truth if catalog is None else catalog, output, **{**given, "progress": False, **changes})


def entries_of_page(path: Path) -> list[dict[str, Any]]:
    texts = re.findall(r'<script type="application/json" class="entries">(.*?)</script>', path.read_text())
    return [entry for text in texts for entry in json.loads(text)]


def pictures_of_page(path: Path) -> list[list[np.ndarray]]:
    texts = re.findall(r'<script type="application/json" class="pictures">(.*?)</script>', path.read_text(), re.DOTALL)
    lines = [json.loads(line) for text in texts for line in text.split("\n")]
    return [[np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in each["panels"]] for each in lines]


def truth(repo: SimulatedRepository) -> pd.DataFrame:
    return pd.read_parquet(repo.truth)


def test_a_page_has_the_chosen_targets_in_their_order_with_captions(
    dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    template = "{object_id}\\n{kind} {flux_i:.1f}"
    result = draw(
        dp2_repo, tmp_path / "x.html", select="label == 1", sort=["-flux_i"], limit=12, caption=template, panels="both"
    )
    table = truth(dp2_repo).query("label == 1")
    best = table.sort_values("flux_i", ascending=False, kind="stable").head(12)
    entries = entries_of_page(tmp_path / "x.html")
    assert [entry["row"] for entry in entries] == [table.index.get_loc(i) for i in best.index]
    for entry, row in zip(entries, best.itertuples(), strict=True):
        assert entry["caption"] == f"{row.object_id}\n{row.kind} {row.flux_i:.1f}"
        values = dict(map(tuple, entry["values"]))
        assert (values["ra"], values["dec"], values["kind"]) == (row.ra, row.dec, row.kind)
        assert entry["size"] == [30, 24]
        assert [name for name, _ in entry["panels"]] == ["irg", "g", "r", "i"]
    assert [one.shape for one in pictures_of_page(tmp_path / "x.html")[0]] == [(24, 30, 3)] * 4
    assert (result.targets, result.total) == (12, len(table))
    assert str(result).startswith(f"12 targets of {len(table)} rows\n  written: ")


def test_bands_without_a_valid_pixel_are_named(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    draw(dp2_repo, tmp_path / "x.html", panels="both", size=8)
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections=dp2_repo.collections, bands="gri", size=8)
    seen = set()
    for target, entry in zip(np.argsort(plan.row), entries_of_page(tmp_path / "x.html"), strict=True):
        share = expected(dp2_repo, plan, target).valid.mean((1, 2))
        said = ["" if one >= 0.9 else f"part of {b}" if one else f"no {b}" for b, one in zip("gri", share, strict=True)]
        (_, colour), *bands = entry["panels"]
        assert bands == [[b, text] for b, text in zip("gri", said, strict=True)]
        assert set(re.findall(r"\b[gri]\b", colour)) == {b for b, text in zip("gri", said, strict=True) if text}
        seen |= set(said)
    assert seen >= {"", "no g", "no i", "part of g"}


def test_pages_for_print_hold_all_targets(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    result = draw(dp2_repo, tmp_path / "new folder" / "x.pdf", circle=1.0, outline="SATURATED")
    on_page = 5 * int((11.69 - 2 * 0.45 - 0.28) / ((7.37 - 0.2) / 5 * 24 / 30 + 6.5 * 1.25 / 72 + 0.09))
    text = (tmp_path / "new folder" / "x.pdf").read_bytes()
    assert len(PAGES.findall(text)) == -(-80 // on_page)
    assert result.files == (str(tmp_path / "new folder" / "x.pdf"),)
    assert result.targets == 80
    # The paper has its size: points of 1/72 inch.
    width, height = map(float, re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", text).groups())
    assert (width, height) == pytest.approx((8.27 * 72, 11.69 * 72))


def test_images_are_numbered(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    result = draw(dp2_repo, tmp_path / "x.png", columns=3, page="letter", limit=30)
    assert [Path(file).name for file in result.files] == ["x-001.png", "x-002.png", "x-003.png"]
    assert not (tmp_path / "x.png").exists()
    few = draw(dp2_repo, tmp_path / "x.png", limit=2)
    assert few.files == (str(tmp_path / "x.png"),)
    with Image.open(tmp_path / "x.png") as image:
        assert image.size[0] == 1654


def test_a_folder_has_a_picture_for_each_target(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    ids = ["a/b", "..", "Ü 1", "$x$", "a_b", "same", "same"]
    table = truth(dp2_repo).head(7).assign(object_id=ids)
    result = draw(dp2_repo, tmp_path / "pictures", table, panels="bands", stretch="zscale", scale="each")
    files = [Path(file) for file in result.files]
    assert len(set(files)) == 7
    assert all(file.parent == tmp_path / "pictures" and file.is_file() for file in files)
    assert [file.stem for file in files[-2:]] == ["same_row5", "same_row6"]


def test_captions_by_default_are_id_and_sorted_columns(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    draw(dp2_repo, tmp_path / "x.html", sort=["kind", "-flux_i"], limit=3)
    table = truth(dp2_repo).sort_values(["kind", "flux_i"], ascending=[True, False]).head(3)
    for entry, row in zip(entries_of_page(tmp_path / "x.html"), table.itertuples(), strict=True):
        assert entry["caption"] == f"{row.object_id}\nkind {row.kind}\nflux_i {row.flux_i:.4g}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"caption": "{nothing}"}, "has no column 'nothing'; it has object_id, ra, dec"),
        ({"caption": ["kind", "what"]}, "has no column 'what'"),
        ({"caption": "{kind:.2f}"}, "does not fit the values of target"),
        ({"caption": "{kind"}, "not a valid format"),
        ({"sort": "-score"}, "has no column 'score'"),
        ({"limit": 0}, "limit=0"),
        ({"limit": True}, "limit=True"),
        ({"columns": 0}, "columns=0"),
        ({"columns": ["kind"]}, "caption= names columns of the catalog"),
        ({"circle": -1.0}, "circle=-1.0"),
        ({"page": "a5"}, "page='a5' must be one of a4, letter"),
        ({"panels": "color"}, "panels='color' must be one of"),
        ({"rgb": "gr"}, "three bands"),
        ({"rgb": "irz"}, "names the band 'z', but the bands are g, r, i"),
        ({"output": "x.gif"}, "no known format"),
        ({"repo": None}, "does not say where the images are"),
        ({"collections": None}, "collections= is missing"),
    ],
)
def test_settings_that_do_not_fit(
    dp2_repo: SimulatedRepository, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    output = changes.pop("output", tmp_path / "x.html")
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        draw(dp2_repo, output, **changes)
    assert not list(tmp_path.iterdir())


def test_what_is_outside_is_named(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    table = truth(dp2_repo).head(4)
    table.loc[[1, 3], "dec"] = 40.0
    result = draw(dp2_repo, tmp_path / "x.html", table)
    assert [identity for identity, _ in result.outside] == table["object_id"][[1, 3]].tolist()
    assert len(entries_of_page(tmp_path / "x.html")) == result.targets == 2
    assert f"2 not shown ({result.outside[0][1]}): " in str(result)
    with pytest.raises(CoverageError):
        draw(dp2_repo, tmp_path / "y.html", table.loc[[1, 3]])


def test_files_that_cannot_be_read_are_missing_pixels_and_said(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    repo = copied(dp2_repo, tmp_path / "repo")
    file_of(repo, 9, "r").write_bytes(b"")
    result = draw(repo, tmp_path / "x.html", size=8, panels="both")
    lost = [entry for entry in entries_of_page(tmp_path / "x.html") if entry["panels"][2][1] == "no r"]
    assert {dict(map(tuple, entry["values"]))["patch"] for entry in lost} >= {9}  # besides, there are holes
    rows = result.report.by_band()["r"][Quality.READ_ERROR]
    assert f"1 read error affected {rows} rows, the first one: " in str(result)
    assert len(result.as_dict()["report"]["failures"]) == 1
    with pytest.raises(ReadError):
        draw(repo, tmp_path / "y.html", read=ReadOptions(on_read_error="raise"))
    assert not (tmp_path / "y.html").exists()


def test_a_file_that_cannot_be_written(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        draw(dp2_repo, tmp_path / "file" / "x.pdf", limit=1)


def test_the_command(dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(dp2_repo.truth).slice(0, 9).append_column("score", pa.array(np.linspace(0, 1, 9)))
    pq.write_table(table, tmp_path / "my scores.parquet")
    where = [f"repo={dp2_repo.root}", f"collections={dp2_repo.collections}", "bands=gri", "size=[20,24]"]
    given = ["gallery", f"catalog={tmp_path / 'my scores.parquet'}", *where, "sort=-score", "select=score > 0.1"]
    output = tmp_path / "a b.html"
    assert main([*given, f"output={output}", "caption={object_id}\\n{score:.2f}", "title=Best, [so] far: {x}"]) == 0
    assert f"8 targets of 8 rows\n  written: {output}\n" in capsys.readouterr().out
    assert [entry["caption"].split("\n")[1] for entry in entries_of_page(output)][:3] == ["1.00", "0.88", "0.75"]
    assert "<title>Best, [so] far: {x}</title>" in output.read_text()
    assert main([*given, f"output={output}", "limit=2", "caption=[score]", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == 2
    assert [entry["caption"] for entry in entries_of_page(output)] == ["score 1", "score 0.875"]
    assert main([*given, f"output={output}", "read=strict"]) == 2
    assert "did you mean read.tract=strict?" in capsys.readouterr().err


def test_an_export_without_valid_pixels(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    folder = exported(dp2_repo, tmp_path / "cut", planes=("image",), read=ReadOptions())
    result = gallery(None, tmp_path / "x.html", repo=folder, limit=9, progress=False)
    assert result.targets == len(entries_of_page(tmp_path / "x.html")) == 9
