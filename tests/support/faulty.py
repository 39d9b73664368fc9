"""Repositories with damage of a known kind: copies whose files may be spoilt."""

import shutil
from dataclasses import replace
from pathlib import Path

from lsst.daf.butler import Butler

from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.sky.geometry import Box
from lsstcutouts.testing import SimulatedRepository


def copied(repo: SimulatedRepository, folder: Path) -> SimulatedRepository:
    """Return a copy of a repository that a test may change."""
    root = folder / "repo"
    shutil.copytree(repo.root, root)
    return replace(repo, root=root)


def file_of(repo: SimulatedRepository, patch: int, band: str) -> Path:
    """Return the file of one coadd."""
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        data_id = {"skymap": repo.skymap, "tract": repo.tract, "patch": patch, "band": band}
        return Path(butler.getURI("deep_coadd", data_id).ospath)


def spoil_tile(path: Path, plane: str, tile: int) -> Box:
    """Overwrite a tile's bytes with zeros, which no gzip stream starts with; return its pixels on the tract."""
    with open_coadd(path) as coadd:
        layout = coadd.layout(plane)
        start, size = int(layout.offsets[tile]), int(layout.sizes[tile])
        y, x = divmod(tile, layout.tile_grid.x)
        pixels = layout.pixels_of(Box(y, y + 1, x, x + 1)).shifted(coadd.bbox.start)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    return pixels
