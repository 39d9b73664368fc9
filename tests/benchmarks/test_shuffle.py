"""What the benchmark says of shuffling, on a tiny repository."""

import json
from pathlib import Path

from lsstcutouts.app.benchmark.settings import Settings
from matplotlib.image import imread

from lsstcutouts.app.benchmark.run import benchmark
from lsstcutouts.testing import SimulatedRepository


def test_widths_are_compared_with_both_ends(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    settings = Settings.of(
        {
            "what": ["shuffle"],
            "wide": str(dp2_repo.root),
            "widths": [1, 4],
            "size": 12,
            "batch_size": 8,
            "repeats": 1,
            "wide_cache": 2.0,
            "output": str(tmp_path),
        }
    )
    result = benchmark(settings)
    names = [entry.name for entry in result.shuffles]
    assert names == ["none", "1", "4", "full"]
    none, one, _, full = result.shuffles
    assert none.distance < one.distance < full.distance
    assert all(entry.decodes == 0 for entry in result.shuffles)  # the cache holds all of the epoch before
    assert all(entry.rate > 0 for entry in result.shuffles)
    assert [
        entry["name"] for entry in json.loads((tmp_path / "benchmark.json").read_text())["further"]["shuffle"]
    ] == names
    assert imread(tmp_path / "shuffle.png").ndim == 3
    assert not result.entries
