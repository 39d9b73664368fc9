"""Settings: what they mean, and which are refused."""

from typing import Any

import pytest

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.sky.geometry import YX
from lsstcutouts.testing import SimulationConfig, skymap_of


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": "dp3"}, "release='dp3'.*dp2, dp1"),
        ({"compression": "zip"}, "compression"),
        ({"cells": 0}, "cells"),
        ({"cells": 2.5}, "cells"),
        ({"cells": (1, 2, 3)}, "cells.*pair"),
        ({"cells": True}, "cells"),
        ({"cell": 8}, "cell.*16"),
        ({"grid": (0, 3)}, "grid"),
        ({"patches": 0}, "patches"),
        ({"patches": 11}, "patches=11 does not fit"),
        ({"patches": []}, "patches is empty"),
        ({"patches": [100]}, "patch id"),
        ({"patches": [(10, 0)]}, "patch x"),
        ({"patches": "all"}, "patches"),
        ({"tract": -1}, "tract"),
        ({"tract": 18938}, "tract"),
        ({"bands": ""}, "bands"),
        ({"bands": "gg"}, "bands"),
        ({"bands": "gx"}, "bands"),
        ({"targets": 0}, "targets"),
        ({"targets": "many"}, "targets"),
        ({"lens_fraction": 1.5}, "lens_fraction"),
        ({"lens_fraction": float("nan")}, "lens_fraction"),
        ({"seed": -1}, "seed"),
        ({"missing": "most"}, "missing"),
        ({"missing": [14]}, "missing"),
        ({"missing": [(14, "x")]}, "missing"),
        ({"missing": 3}, "missing"),
        ({"noise_realizations": -1}, "noise_realizations"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SimulationConfig(**changes)


@pytest.mark.parametrize(
    ("patches", "ids"),
    [
        (1, (14,)),
        (2, (14, 15, 24, 25)),
        ([25, 14], (14, 25)),
        ([(4, 1), [5, 2]], (14, 25)),
        ([14, 14], (14,)),
        (10, tuple(range(100))),
    ],
)
def test_patches_are_a_block_or_ids_or_pairs(patches: Any, ids: tuple[int, ...]) -> None:
    assert SimulationConfig(patches=patches).patch_ids == ids


def test_few_bands_are_missing_by_default_and_never_a_whole_patch() -> None:
    config = SimulationConfig()
    assert len(config.missing_files) == 2
    assert len({patch for patch, _ in config.missing_files}) == 2
    assert {band for _, band in config.missing_files} <= set("uzy")
    assert config.missing_files == SimulationConfig().missing_files
    assert len({SimulationConfig(seed=seed).missing_files for seed in range(9)}) > 1
    assert not SimulationConfig(missing=None).missing_files
    assert not SimulationConfig(missing=()).missing_files
    assert not SimulationConfig(bands="r").missing_files
    assert SimulationConfig(missing=[[14, "g"], [(5, 1), "r"]]).missing_files == {(14, "g"), (15, "r")}


def test_sizes_may_differ_along_y_and_x() -> None:
    config = SimulationConfig(cells=[2, 3], cell=(40, 50), grid=(6, 7), patches=[(6, 5)])
    assert (config.cell_grid, config.cell_shape, config.patch_grid) == (YX(2, 3), YX(40, 50), YX(6, 7))
    assert config.patch_ids == (41,)
    skymap = skymap_of(config)
    assert skymap.tract_box == (0, 480, 0, 1050)
    assert skymap.inner_box(41) == (400, 480, 900, 1050)
    assert skymap.outer_box(41) == (360, 520, 850, 1100)
