"""The page of a gallery, in a browser: what it shows, how it labels, and the file of labels."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from lsstcutouts import Catalog
from lsstcutouts.app.gallery.entry import Entry, Panel
from lsstcutouts.app.gallery.page import write_page
from lsstcutouts.errors import WriteError

from ..support.browser import browsing, opened

pytestmark = pytest.mark.system  # a browser is several processes

HOSTILE = ['</script><script>alert("x")</script>', "$1 & 'ü' \\ ,", '"quoted", twice', "two\nlines", "x" * 3000, "<!--"]
SHAPE = (20, 28)


def entry(row: int, object_id: Any, **values: Any) -> Entry:
    rng = np.random.default_rng(row)
    panels = tuple(
        Panel(label, rng.integers(0, 256, (*SHAPE, 3), np.uint8), "no u" if label == "u" and row == 1 else "")
        for label in ("gri", "u", "g")
    )
    square = np.array([(2, 3), (6, 3), (6, 8), (2, 8)], np.float32) - 0.5
    return Entry(
        object_id=object_id,
        row=row,
        caption=f"{object_id}\nsecond line",
        values={"ra": 10 + row / 7, "dec": -row / 3, **values},
        panels=panels,
        target=(9.0, 4.5),
        north=(0.0, 1.0),
        east=(-1.0, 0.0),
        pixel_scale=0.2,
        outlines={"SAT": (square,), "odd <b>": (square + 5, square + 9)} if row == 1 else {},
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A page of 600 targets with ids and values that HTML, scripts and CSV could misread."""
    ids = [*HOSTILE, *(f"id {i}" for i in range(len(HOSTILE), 600))]
    scores = [0.5, None, float("nan"), np.float32(0.1), float("inf"), -1, *(i / 600 for i in range(6, 600))]
    large = [2**64 - 1, 2**63, 2**53 + 1, 2**53 + 2, 0, None, *range(6, 600)]
    kinds = ["Star", "galaxy", None, *("galaxy" if i % 2 else "star" for i in range(3, 600))]
    entries = (
        entry(i, ids[i], score=scores[i], large=large[i], kind=kinds[i], note=HOSTILE[i % 6], flag=np.bool_(i % 2))
        for i in range(600)
    )
    path = tmp_path_factory.mktemp("odd page") / "new" / "a b.html"
    return write_page(path, entries, title="<b>Odd</b> <!-- data --> & $", total=700)


@pytest.fixture
def page(browser: Browser, odd: Path) -> Iterator[Page]:
    with opened(browser, odd) as found:
        yield found


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def shown(page: Page) -> dict[str, str]:
    """Return the columns that the page shows of the selected target."""
    pairs = page.eval_on_selector_all(
        "#details tr", "rows => rows.map((r) => [r.children[0].textContent, r.children[1].textContent])"
    )
    return dict(pairs)


def in_order(page: Page, count: int) -> list[int]:
    """Return the first targets in the grid."""
    text = page.eval_on_selector_all(
        ".cell", "c => c.sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((one) => one.dataset.index)"
    )
    return [int(one) for one in text[:count]]


def choose(page: Page, name: str, value: str) -> None:
    page.select_option(f"#{name}", value)


def saved(page: Page, path: Path) -> list[list[str]]:
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "labels.csv"
    download.value.save_as(path)
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_only_what_is_in_view_exists_and_is_exact(page: Page) -> None:
    assert page.title() == page.inner_text("h1") == "<b>Odd</b> <!-- data --> & $"
    assert page.inner_text("#count") == "600 of 700 targets"
    assert 20 < page.locator(".cell").count() < 120
    pixels = page.evaluate(
        """async () => {
          const image = document.querySelector("#target-3 img");
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
          canvas.drawImage(image, 0, 0);
          return [...canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data];
        }"""
    )
    expected = np.flipud(entry(3, "").panels[0].image)
    np.testing.assert_array_equal(np.reshape(pixels, (*SHAPE, 4))[..., :3], expected)
    press(page, "End")
    assert page.inner_text("#details .caption div >> nth=0") == "id 599"
    assert page.locator(".cell").count() < 120
    assert page.locator("#target-0").count() == 0


def test_pointing_shows_all_columns_as_text(page: Page) -> None:
    page.hover("#target-0")
    assert shown(page) == {
        "object_id": HOSTILE[0],
        "row": "0",
        "ra": "10",
        "dec": "0",
        "score": "0.5",
        "large": str(2**64 - 1),
        "kind": "Star",
        "note": HOSTILE[0],
        "flag": "false",
    }
    page.hover("#target-2")
    assert (shown(page)["score"], shown(page)["kind"], shown(page)["note"]) == ("", "", HOSTILE[2])
    press(page, "ArrowRight")
    assert (shown(page)["object_id"], shown(page)["score"]) == (HOSTILE[3], "0.1")
    press(page, "ArrowRight")
    assert (shown(page)["object_id"], shown(page)["score"]) == (HOSTILE[4], "Infinity")


def test_keys_label_move_on_and_undo(page: Page) -> None:
    press(page, "1 2 ArrowRight 1 9")
    assert page.inner_text("#labelled") == "4 labelled"
    assert page.inner_text("#labels li:nth-child(1) output") == "2"
    assert page.inner_text("#target-4 .badge") == "9"
    page.hover("#target-1")
    press(page, "Backspace")
    assert page.inner_text("#labelled") == "3 labelled"
    press(page, "u")
    assert page.inner_text("#target-1 .badge") == "2"
    press(page, "Control+z u u")
    assert page.locator(".badge").all_inner_texts() == ["1"]
    assert page.inner_text("#labelled") == "1 labelled"
    press(page, "u u")
    assert page.inner_text("#labelled") == "0 labelled"
    assert page.inner_text("#message") == "There is nothing to undo."


def test_labels_filter_what_is_shown(page: Page) -> None:
    press(page, "1 2 1")
    choose(page, "label-filter", "1")
    assert in_order(page, 9) == [0, 2]
    choose(page, "label-filter", "any")
    assert in_order(page, 9) == [0, 1, 2]
    choose(page, "label-filter", "0")
    assert page.inner_text("#count") == "597 of 700 targets"
    page.hover("#target-5")
    press(page, "4")  # it leaves the view, and the next one is selected
    assert page.locator("#target-5").count() == 0
    assert page.get_attribute("#target-6", "aria-selected") == "true"
    press(page, "u")
    assert page.locator("#target-5").count() == 1


def test_columns_filter_and_sort(page: Page) -> None:
    choose(page, "column", "score")
    page.fill("#least", "0.1")
    page.fill("#most", "0.11")
    assert in_order(page, 99) == [3, *range(60, 67)]
    page.fill("#most", "")
    page.fill("#least", "x")
    assert page.get_attribute("#least", "aria-invalid") == "true"
    choose(page, "column", "large")
    page.fill("#least", str(2**53 + 2))
    assert in_order(page, 99) == [0, 1, 3]
    choose(page, "column", "kind")
    page.fill("#contains", "STAR")
    assert page.inner_text("#count") == "299 of 700 targets"
    page.fill("#contains", "nothing has this")
    assert page.inner_text("#canvas") == "No target passes the filters."
    press(page, "Escape 1 ArrowRight Enter u")
    choose(page, "column", "")
    choose(page, "sort", "large")
    assert in_order(page, 3) == [4, 6, 7]
    page.click("#direction")
    assert in_order(page, 5) == [0, 1, 3, 2, 599]
    choose(page, "sort", "score")
    assert in_order(page, 3) == [4, 599, 598]
    press(page, "Escape")
    page.focus("#grid")
    press(page, "End")
    assert shown(page)["score"] == ""
    choose(page, "sort", "")
    page.click("#direction")
    page.focus("#grid")
    press(page, "Home")
    assert in_order(page, 2) == [0, 1]


def test_a_target_is_enlarged_with_all_its_pictures(page: Page) -> None:
    press(page, "ArrowRight Enter")
    assert page.eval_on_selector_all("#large figcaption", "c => c.map((one) => one.textContent)") == ["gri", "u", "g"]
    assert page.inner_text("#large .missing") == "no u"
    press(page, "o")
    assert page.inner_text("#large .legend") == "SATodd <b>"
    outline = page.get_attribute("#target-1 svg path >> nth=0", "d")
    assert outline == "M2,17L6,17L6,12L2,12Z"  # rows are counted from the top there
    press(page, "3")
    assert page.inner_text("#large .caption div >> nth=0") == HOSTILE[2]
    press(page, "ArrowLeft")
    assert page.inner_text("#large .tag") == "3"
    press(page, "Escape")
    assert not page.is_visible("#large")
    press(page, "b")
    assert page.inner_text("#target-1 .missing") == "no u"
    press(page, "?")
    assert page.is_visible("#keys")
    press(page, "1 Escape")
    assert page.inner_text("#labelled") == "1 labelled"


def test_marks_have_place_direction_and_length(page: Page) -> None:
    width = page.locator("#target-0 .picture").bounding_box()["width"]
    d = page.get_attribute("#target-0 .over", "d")
    x, y = map(float, re.match(r"M([\d.]+),([\d.]+)a", d).groups())
    radius = float(re.search(r"a([\d.]+),", d)[1])
    scale = width / SHAPE[1]
    assert (x + radius, y) == pytest.approx((9.5 * scale, 15 * scale))
    bar = float(re.search(r"h([\d.]+)m", d)[1])
    assert page.eval_on_selector_all("#target-0 text", "t => t.map((one) => one.textContent)") == ["N", "E", "2″"]
    assert bar == pytest.approx(10 * scale)
    (sx, sy, ex, ey), (_, _, wx, wy) = (
        map(float, ends) for ends in re.findall(r"M([\d.]+),([\d.]+)L([\d.]+),([\d.]+)M", d)
    )
    assert (ex, wy) == (sx, sy)
    assert ey < sy
    assert wx < sx
    press(page, "m + +")
    assert page.locator("#target-0 .over").count() == 0
    assert page.locator("#target-0 .picture").bounding_box()["width"] > width


def test_labels_survive_a_reload_and_are_saved_and_loaded(browser: Browser, odd: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with opened(browser, odd) as page:
        asked: list[str] = []
        page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
        press(page, "1 2 1 1 ArrowRight 9")
        page.fill("#labels li:nth-child(1) input", 'arc, "strong"')
        page.fill("#labels li:nth-child(2) input", "2")
        page.fill("#labels li:nth-child(9) input", 'arc, "strong"')
        press(page, "Enter")
        assert page.inner_text("#message") == 'Label 1 has the name arc, "strong" already.'
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert asked == ["beforeunload"]
        assert page.inner_text("#labelled") == "5 labelled"
        name = 'arc, "strong"'
        rows = saved(page, path)
        assert [(row[0], row[3]) for row in rows[1:]] == list(
            zip([*HOSTILE[:4], HOSTILE[5]], [name, "2", name, name, "9"], strict=True)
        )
        assert rows[0] == ["object_id", "ra", "dec", "label"]
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert asked == ["beforeunload"]  # they are saved
    catalog = Catalog.from_any(path, columns=["label"])
    assert catalog.object_id == [*HOSTILE[:4], HOSTILE[5]]
    assert catalog.columns["label"] == [name, "2", name, name, "9"]
    assert catalog.ra.tolist() == [10 + row / 7 for row in (0, 1, 2, 3, 5)]

    with opened(browser, odd) as page:  # another profile
        assert page.inner_text("#labelled") == "0 labelled"
        path.write_text("\ufeff" + path.read_text().replace("\r\n", "\n") + "stranger,1,2,9\n")
        page.set_input_files("#file", path)
        page.get_by_text("Labels loaded: 5. Rows of targets that are not in this page: 1.").wait_for()
        assert page.input_value("#labels li:nth-child(1) input") == name
        page.check("#numbers")
        rows = saved(page, tmp_path / "numbers.csv")
        assert rows[0][3:] == ["label", "label_name"]
        assert [row[3:] for row in rows[1:]] == [["1", name], ["2", "2"], ["1", name], ["1", name], ["9", "9"]]
        page.focus("#grid")
        press(page, "u")
        assert page.inner_text("#labelled") == "0 labelled"


@pytest.mark.parametrize("ids", [[2**64 - 1, 2**63 + 1, 7], [-(2**63), 2**62 + 1, 2**62 + 1]])
def test_every_digit_of_an_id_is_kept(browser: Browser, tmp_path: Path, ids: Sequence[int]) -> None:
    dtype = np.uint64 if max(ids) >= 2**63 else np.int64
    written = write_page(tmp_path / "ids.html", [entry(i, dtype(one)) for i, one in enumerate(ids)], title="ids")
    path = tmp_path / "labels.csv"
    with opened(browser, written) as page:
        assert shown(page)["object_id"] == str(ids[0])
        press(page, "1 2 3 u")
        saved(page, path)
        page.set_input_files("#file", path)
        page.get_by_text("Labels loaded: 2.").wait_for()
        assert page.inner_text("#labelled") == "2 labelled"
        press(page, "ArrowRight 3")
        saved(page, path)
    with path.open(newline="") as file:
        assert [(row["object_id"], row["label"]) for row in csv.DictReader(file)] == [
            (str(one), label) for one, label in zip(ids, "123", strict=True)
        ]
    if len(set(ids)) == len(ids):
        catalog = Catalog.from_any(path, columns=["label"])
        assert catalog.object_id.tolist() == list(ids)
        assert catalog.columns["label"].tolist() == [1, 2, 3]


def test_it_works_where_storage_is_refused(browser: Browser, odd: Path) -> None:
    refuse = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    with opened(browser, odd, script=refuse) as page:
        assert "does not keep labels" in page.inner_text("#message")
        press(page, "1")
        assert page.inner_text("#labelled") == "1 labelled"


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#grid").bounding_box()["height"] > 250
    for _ in range(20):
        press(page, "+")
    assert page.locator("#target-0 .picture").bounding_box()["width"] <= 350


def test_a_page_without_targets_says_so(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, write_page(tmp_path / "none.html", [], title="none")) as page:
        assert page.inner_text("#canvas") == "This page has no targets."
        press(page, "1 Enter ArrowDown u End")
        assert page.inner_text("#labelled") == "0 labelled"


def test_entries_are_written_as_they_come(tmp_path: Path) -> None:
    sizes = []

    def entries() -> Iterator[Entry]:
        for i in range(170):
            sizes.append(sum(one.stat().st_size for one in tmp_path.glob(".*.part")))
            yield entry(i, i)

    write_page(tmp_path / "x.html", entries(), title="x")
    assert sizes[60] < sizes[110] < sizes[160]
    assert [one.name for one in tmp_path.iterdir()] == ["x.html"]


def test_a_page_is_complete_or_not_there(tmp_path: Path) -> None:
    def failing() -> Iterator[Entry]:
        yield entry(0, 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_page(tmp_path / "x.html", failing(), title="x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="folder"):
        write_page(tmp_path / "folder", [entry(0, 0)], title="x")


def test_the_fingerprint_is_that_of_the_targets(tmp_path: Path) -> None:
    def fingerprint(*entries: Entry) -> str:
        text = write_page(tmp_path / "x.html", entries, title="x").read_text()
        found: str = json.loads(re.search(r'id="page">(.*?)</script>', text)[1])["fingerprint"]
        return found

    first = fingerprint(entry(0, 1), entry(1, 2))
    assert first == fingerprint(entry(0, 1, score=2), entry(1, 2))  # new scores in the same order
    assert first != fingerprint(entry(1, 2), entry(0, 1))
