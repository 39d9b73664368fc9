"""Files of cell coadds, with what lsst.images makes of them, with another JSON tree, or counting their reads."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from astropy.io import fits
from lsst.daf.butler import Butler
from lsst.images.cells import CellCoadd

from lsstcutouts.source.byte_source import LocalSource
from lsstcutouts.testing import SimulatedRepository

__all__ = ["Counted", "Tree", "coadds", "rewrite"]

type Tree = dict[str, Any]


def coadds(repo: SimulatedRepository) -> Iterator[tuple[Path, CellCoadd]]:
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        for ref in butler.query_datasets("deep_coadd", limit=None):
            yield Path(butler.getURI(ref).ospath), butler.get(ref)


def rewrite(path: Path, to: Path, edit: Callable[[Tree], Any]) -> Path:
    """Copy a file with another JSON tree, which must not be longer: blanks fill the rest."""
    with fits.open(path) as hdus:
        at = next(int(row["DATADDR"]) for row in hdus["INDEX"].data if row["EXTNAME"] == "JSON") + 8
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[at - 8 : at - 4])
    tree = json.loads(content[at : at + length])
    del tree["butler_info"]  # makes room
    changed = edit(tree)
    text = changed if isinstance(changed, bytes) else json.dumps(tree, separators=(",", ":")).encode()
    assert len(text) <= length
    content[at : at + length] = text.ljust(length)
    to.write_bytes(content)
    return to


class Counted(LocalSource):
    """A file that keeps account of its reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), str(path))
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return super().read(offset, length)

    def read_into(self, offset: int, to: memoryview) -> None:
        self.reads.append((offset, len(to)))
        super().read_into(offset, to)
