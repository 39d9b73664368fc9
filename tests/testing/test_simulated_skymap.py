"""Geometry of the full-size skymaps, against numbers that Rubin's documents and repositories print."""

import numpy as np
import pytest

from lsstcutouts.testing import SimulationConfig, skymap_of
from lsstcutouts.testing.simulated_skymap import ring_tract_centre


def test_full_size_has_the_name_and_hash_of_the_real_skymap() -> None:
    dp2, dp1 = (skymap_of(SimulationConfig(release=release, cells=20)) for release in ("dp2", "dp1"))
    assert (dp2.name, dp2.hash.hex()) == ("lsst_cells_v2", "a5f11e561505dc6b24ec8f4ef547bc592e8299da")
    assert (dp1.name, dp1.hash.hex()) == ("lsst_cells_v1", "e2736e41244df00bbdb93aecac0ae4b2d19dda91")


@pytest.mark.parametrize("changes", [{"cells": 10}, {"cell": 149}, {"grid": 9}, {"cells": (20, 19)}])
@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_other_sizes_never_pass_for_the_real_skymap(release: str, changes: dict[str, object]) -> None:
    full = SimulationConfig(release=release, cells=20)  # type: ignore[arg-type]
    small = skymap_of(SimulationConfig(**{"release": release, "cells": 20, **changes}))  # type: ignore[arg-type]
    assert not small.name.startswith("lsst")
    assert len(small.name) <= 64
    assert small.hash != skymap_of(full).hash


def test_names_and_hashes_of_small_skymaps_tell_them_apart() -> None:
    changes = ({}, {"release": "dp1"}, {"cells": 3}, {"cells": (3, 4)}, {"cell": 50}, {"grid": 4, "patches": 1})
    skymaps = [skymap_of(SimulationConfig(**change)) for change in changes]  # type: ignore[arg-type]
    assert len({s.name for s in skymaps}) == len({s.hash for s in skymaps}) == len(changes)


def test_sky_to_pixel_of_the_dp2_notebook() -> None:
    skymap = skymap_of(SimulationConfig(cells=20))
    x, y = skymap.wcs.all_world2pix(53.076, -28.110, 0)
    assert x == pytest.approx(15182.507513158846, abs=1e-6)
    assert y == pytest.approx(4390.517978014746, abs=1e-6)
    assert skymap.primary_patch(y, x) == 15
    assert skymap.outer_box(15) == (2850, 6150, 14850, 18150)


def test_sky_to_pixel_of_the_dp1_notebook() -> None:
    skymap = skymap_of(SimulationConfig(release="dp1", cells=20))
    x, y = skymap.wcs.all_world2pix(53.13, -28.10, 0)
    assert x == pytest.approx(14325.05, abs=0.05)
    assert y == pytest.approx(4570.43, abs=0.05)
    assert skymap.primary_patch(y, x) == 14
    assert skymap.outer_box(14) == (2800, 6200, 11800, 15200)
    assert skymap.outer_box(0) == (-200, 3200, -200, 3200)


def test_tract_records_cover_the_inner_boxes() -> None:
    skymap = skymap_of(SimulationConfig(cells=20))
    assert skymap.tract_box == (0, 30000, 0, 30000)
    assert len(skymap.patch_records()) == 100
    assert skymap.patch_records()[15] | {"region": None} == {
        "skymap": "lsst_cells_v2",
        "tract": 5063,
        "id": 15,
        "cell_x": 5,
        "cell_y": 1,
        "region": None,
    }


def test_ring_tracts_start_and_end_at_the_poles() -> None:
    assert ring_tract_centre(0) == (0.0, -90.0)
    assert ring_tract_centre(18937) == (0.0, 90.0)
    ra, dec = np.array([ring_tract_centre(tract) for tract in range(1, 18937, 97)]).T
    assert np.all(np.diff(dec) >= 0)
    assert np.all((ra >= 0) & (ra < 360))
    with pytest.raises(ValueError, match="18938"):
        ring_tract_centre(18938)
