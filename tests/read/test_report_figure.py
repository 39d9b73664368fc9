"""The figure of a report: what it names and counts, for none and for many rows."""

import numpy as np
import pytest

from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome, Quality
from lsstcutouts.read.batch_report import BatchReport, Failure
from lsstcutouts.read.report import Report
from lsstcutouts.testing import SimulatedRepository


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections=dp2_repo.collections, bands="gri", size=24)


def texts_of(report: Report) -> list[str]:
    """Return all texts of the figure, which is drawn once: warnings are errors here."""
    figure = report.plot()
    figure._repr_png_()  # type: ignore[attr-defined]
    found = []
    for axes in figure.axes:
        ticks = (*axes.get_xticklabels(), *axes.get_yticklabels()) if axes.axison else ()
        labels = [one.get_text() for one in ticks if one.get_visible()]
        found += [axes.get_title(loc="left"), *labels, *(one.get_text() for one in axes.texts)]
    return found


def test_no_rows_and_no_problems_are_said(plan: CutoutPlan) -> None:
    assert texts_of(Report(plan, np.zeros(0, np.int64))) == ["0 rows by outcome", "no problem in any band"]
    unread = Report(plan, np.arange(3))
    assert {"3 rows by outcome", "not read", " 3  100 %", "no problem in any band"} <= set(texts_of(unread))


def test_every_outcome_and_every_problem_has_its_number(plan: CutoutPlan) -> None:
    report = Report(plan, np.arange(len(Outcome)))
    quality = np.zeros((len(Outcome), 3), np.int32)
    quality[:2, 0] = Quality.BAND_ABSENT
    quality[:5, 2] = int(Quality.PEAK_AT_EDGE | Quality.NO_PSF)
    report.add(BatchReport(np.arange(len(Outcome)), np.array(list(Outcome), np.uint8), quality))
    texts = texts_of(report)
    assert {one.text for one in Outcome} <= set(texts)
    assert texts.count(" 1  12.5 %") == len(Outcome)
    assert {"band\nabsent", "no\npsf", "peak\nat\nedge", "g", "r", "i"} <= set(texts)
    assert sorted(text for text in texts if text.isdigit()) == ["0"] * 6 + ["2", "5", "5"]


def test_many_read_errors_are_counted_and_the_first_ones_named(plan: CutoutPlan) -> None:
    report = Report(plan)
    failures = tuple(
        (Failure(f"https://a/$b$/c{i}.fits?Signature=s", 5063, i, "g", "", "E", ""), tuple(range(1 + i % 40)))
        for i in range(500)
    )
    count = len(plan)
    outcome = np.full(count, Outcome.READ_ERROR, np.uint8)
    report.add(BatchReport(np.arange(count), outcome, np.full((count, 3), int(Quality.READ_ERROR), np.int32), failures))
    texts = texts_of(report)
    assert "read errors: 500, with affected rows; the 10 that affected most rows" in texts
    assert sum("file of c" in text for text in texts) == 10
    assert "g 5063/39 file of c39.fits" in texts
    assert not any("Signature" in text for text in texts)


def test_shares_do_not_round_to_nothing_or_all(plan: CutoutPlan) -> None:
    report = Report(plan)
    for name in ("row", "outcome", "other_tract", "quality"):
        setattr(report, name, np.repeat(getattr(report, name)[:1], 100_000, axis=0))
    report.outcome[:1] = Outcome.QUALITY
    assert {" 1  < 0.1 %", " 99,999  > 99.9 %"} <= set(texts_of(report))
