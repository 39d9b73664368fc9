"""Figures of batches: which cutouts, where north is, which texts."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lsstcutouts import CutoutDataset, CutoutLoader, LsstDataFetcher, build_plan, show
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.testing import SimulatedRepository


def cutouts(count: int, bands: int = 3, y: int = 20, x: int = 24) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).normal(0, 10, (count, bands, y, x)).astype(np.float32)
    images[:, :, 2:5, 3:6] += 500
    return {"image": images}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_north_is_up() -> None:
    figure = show(cutouts(1), "gri", columns=1, width=3)
    seen = pixels(figure).min(axis=2)
    (top, left), (bottom, right) = (end(np.argwhere(seen < 100), axis=0) for end in (np.min, np.max))
    picture = seen[top:bottom, left:right]
    # The source is in the first rows, which are the southern ones, and in the first columns.
    y, x = np.argwhere(picture > 0.9 * picture.max()).mean(axis=0) / picture.shape
    assert (y, x) == pytest.approx((1 - 3.5 / 20, 4.5 / 24), abs=0.03)


def test_batches_of_fetcher_and_loader(dp2_repo: SimulatedRepository) -> None:
    where = {"collections": dp2_repo.collections, "bands": "gri", "size": 24}
    with LsstDataFetcher(dp2_repo.root, **where) as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        figure = show(fetcher.fetch_plan(plan), "gri", limit=10, title="some $x_1$", panels="both", circle=1)
    ids = plan.object_id[:10].tolist()
    assert [text for text in texts(figure) if text.isdigit()] == list(map(str, ids))
    assert {"some $x_1$", "irg", "N", "E"} <= set(texts(figure))
    plan = build_plan(dp2_repo.root, dp2_repo.truth, **where)
    for batch in CutoutLoader(CutoutDataset(plan, batch_size=32, threads=1)):
        figure = show(batch, plan.bands)
        assert sum(map(str.isdigit, texts(figure))) == int((~batch["is_padding"]).sum())


def test_padding_is_not_shown() -> None:
    batch = {**cutouts(4), "object_id": np.arange(100, 104), "is_padding": np.array([False, True, False, True])}
    assert texts(show(batch, "gri")) == ["100", "102"]
    figure = show(batch, "gri", captions=["a", "b", "c", "d"], colours=["red", "black", "blue", "black"])
    assert [(text.get_text(), text.get_color()) for text in figure.axes[0].texts] == [("a", "red"), ("c", "blue")]
    with pytest.raises(ConfigurationError, match="only padding"):
        show({**batch, "is_padding": np.ones(4, bool)})


def test_captions_follow_the_order_of_the_cutouts() -> None:
    column = pd.Series(["a", "b", "c"], index=[2, 0, 1])
    assert texts(show(cutouts(3), "gri", captions=column)) == ["a", "b", "c"]
    assert texts(show(cutouts(2), "gri", captions=[1, 2.5], colours=pd.Series(["red", "blue"], index=[1, 0]))) == [
        "1",
        "2.5",
    ]


def test_tensors_of_any_type_and_device_are_drawn() -> None:
    batch = cutouts(2)
    want = pixels(show(batch, "gri"))
    np.testing.assert_array_equal(pixels(show({"image": torch.from_numpy(batch["image"])}, "gri")), want)
    half = torch.from_numpy(batch["image"]).to(torch.bfloat16).requires_grad_()
    assert np.abs(pixels(show({"image": half}, "gri")).astype(int) - want).mean() < 3


@pytest.mark.parametrize(
    ("batch", "given", "words"),
    [
        (np.zeros((1, 3, 4, 4)), {}, "show takes a batch, a dictionary with 'image', got ndarray"),
        ({"variance": np.zeros((1, 3, 4, 4))}, {}, "the batch has no 'image', only variance"),
        ({"image": np.zeros((3, 4, 4))}, {}, "must be (N, B, Y, X) with N >= 1, got (3, 4, 4)"),
        ({"image": np.zeros((0, 3, 4, 4))}, {}, "must be (N, B, Y, X) with N >= 1"),
        (cutouts(2), {"bands": "gr"}, "bands='gr' are 2 names, but the batch has 3 channels"),
        (cutouts(2), {"captions": ["one"]}, "captions= has 1 texts for 2 cutouts"),
        (cutouts(2), {"captions": "ab"}, "captions='ab' must be a list"),
        (cutouts(2), {"colours": ["red"]}, "colours= has 1 texts for 2 cutouts"),
        (cutouts(2), {"panels": "all"}, "panels='all' must be one of"),
        (cutouts(2), {"columns": 0}, "columns=0"),
        (cutouts(2), {"limit": 0}, "limit=0"),
    ],
)
def test_what_does_not_fit(batch: dict, given: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        show(batch, **given)
