"""The arithmetic of the device benchmark; the measurement itself needs a GPU."""

import pytest
import torch

from benchmarks.device import MODELS, bytes_of, device_words, idle_share, measure_device, median, rate
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.models import LensFinder


@pytest.mark.parametrize(
    ("computing", "seconds", "idle"),
    [([0.2, 0.3], 1.0, 0.5), ([], 1.0, 1.0), ([0.5, 0.5], 1.0, 0.0), ([0.6, 0.6], 1.0, 0.0), ([], 0.0, 0.0)],
)
def test_the_idle_share_is_what_computing_leaves(computing: list[float], seconds: float, idle: float) -> None:
    assert idle_share(computing, seconds) == pytest.approx(idle)


def test_medians_rates_and_bytes() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert rate(100, 0.5) == 200.0
    assert rate(100, 0.0) == 0.0
    assert bytes_of({"image": torch.zeros(2, 3), "valid": torch.zeros(5, dtype=torch.bool), "kind": ["a"]}) == 29


def test_the_models_are_far_apart() -> None:
    sizes = {name: sum(p.numel() for p in LensFinder(6, widths).parameters()) for name, widths in MODELS.items()}
    assert sizes["large"] > 1000 * sizes["small"]


def test_another_device_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="CUDA device only"):
        measure_device(lambda _: pytest.fail("nothing to be read"), torch.device("cpu"))


def test_the_words_say_what_limits() -> None:
    share = {"steps": 90, "seconds": 1.0, "computing": 0.2}
    found = {
        "prefetch": 9e9,
        "pinned_copy": 12e9,
        "prefetch_over_pinned_copy": 0.75,
        "training": {"small": {**share, "idle": 0.8}, "large": {**share, "idle": 0.01}},
    }
    copies, small, large = device_words(found)
    assert "9.0 GB/s, 75% of a bare copy of page-locked memory (12.0 GB/s)" in copies
    assert "idle 80% of 90 training steps of the small network: the data limit" in small
    assert large.endswith("idle 1% of 90 training steps of the large network")
