"""Indices of files within the cache's budget, and open files."""

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsstcutouts import LsstDataFetcher
from lsstcutouts.errors import CorruptFileError
from lsstcutouts.fits.coadd import Coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read import open_files
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.open_files import OpenFiles, _index_of
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.source.byte_source import ByteSource, LocalSource, open_source
from lsstcutouts.source.web.byte_parts import NotHereError
from lsstcutouts.testing import SimulatedRepository

from ..support.faulty import copied

ALL = ReaderOptions(planes=("image", "variance", "mask", "psf"), mask_planes=("DETECTED",))


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the URIs of the files that are opened from now on."""
    uris: list[str] = []

    def noting(uri: str, **more: Any) -> ByteSource:
        uris.append(uri)
        return open_source(uri, **more)

    monkeypatch.setattr(open_files, "open_source", noting)
    return uris


def test_no_file_is_opened_for_tiles_in_memory(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than may be open: their indices stay, also when the reader was closed meanwhile."""
    monkeypatch.setattr(open_files, "_OPEN_FILES", 2)
    uris = opened(monkeypatch)
    reader = CutoutReader(plan, ALL, cache=TileCache("200 MB"))
    targets = np.arange(len(plan))
    first = reader.read(targets)
    assert len(set(uris)) > 4
    assert len(reader._files._open) <= 2
    uris.clear()
    reader.close()
    again = reader.read(targets)
    assert not uris
    for name in ("image", "variance", "mask", "psf"):
        np.testing.assert_array_equal(first[name], again[name])


def test_headers_are_read_once(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = opened(monkeypatch)
    reader = CutoutReader(plan, cache=TileCache("200 MB"))
    reader.read(np.arange(len(plan)))
    files = len(uris)
    reader.close()
    reader.cache.clear()
    read_headers = []
    monkeypatch.setattr(open_files, "_index_of", lambda *arguments: read_headers.append(arguments))
    reader.read(np.arange(len(plan)))
    assert len(uris) == 2 * files
    assert not read_headers


@pytest.mark.parametrize("how", ["rewritten", "another file in its place", "other bytes of the same length"])
def test_a_replaced_file_is_noticed(dp2_repo: SimulatedRepository, tmp_path: Path, how: str) -> None:
    repo = copied(dp2_repo, tmp_path / "repo")
    plan = build_plan(repo.root, repo.truth, collections="dp2", bands="g", size=24)
    reader = CutoutReader(plan, cache=TileCache("200 MB"))
    before = reader.read(np.arange(len(plan)))["image"]
    path = Path(plan.files.uri[int(plan.patches.files[plan.primary[0], 0])])
    content = path.read_bytes()
    if how == "another file in its place":
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(path)
    else:
        path.unlink()
        path.write_bytes(content if how == "rewritten" else content[:-1] + b"x")
    os.utime(path, ns=(1, 1))
    reader.close()
    reader.cache.clear()
    with pytest.raises(CorruptFileError, match=r"was replaced while it was in use; .*patch"):
        reader.read(np.arange(len(plan)))
    np.testing.assert_array_equal(reader.read(np.arange(len(plan)))["image"], before)  # it is indexed again


def test_indices_are_within_the_budget(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.open_files._PART", 16)
    large, small = TileCache("200 MB"), TileCache("300 kB")
    held = []
    for cache in (large, small):
        files = OpenFiles(cache)
        for file in range(len(plan.files.uri)):
            files.index(plan, file, int(plan.patches.tract[plan.patches.row_and_band[file, 0]]), ALL)
        held.append(len(files._indices))
        assert cache.stats().reserved == sum(index.nbytes for index in files._indices.values())
        assert cache.stats().reserved <= cache.stats().max_bytes / 16
        del files
        gc.collect()
        assert cache.stats().reserved == 0
    assert held[0] == len(plan.files.uri) > held[1] > 0


def test_an_index_is_plain_values(plan: CutoutPlan) -> None:
    files = OpenFiles(TileCache("10 MB"))
    index = files.index(plan, 0, int(plan.patches.tract[0]), ALL)
    copy = pickle.loads(pickle.dumps(index))
    assert copy.bbox == index.bbox
    assert copy.layouts.keys() == index.layouts.keys() == {"image", "variance", "mask"}
    np.testing.assert_array_equal(copy.layout("image").offsets, index.layout("image").offsets)
    assert len(pickle.dumps(index)) < index.nbytes + 4096
    again = pickle.loads(pickle.dumps(files))
    assert again.index(plan, 0, int(plan.patches.tract[0]), ALL) is not index


def test_a_fetcher_keeps_indices_when_it_is_closed(dp2_repo: SimulatedRepository, plan: CutoutPlan) -> None:
    fetcher = LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24)
    for _ in range(2):
        with fetcher:
            fetcher.fetch_plan(plan)
        assert not fetcher._files._open
    assert len(fetcher._files._indices) == len({*plan.files.uri})


class Late(LocalSource):
    """A file whose bytes are not here at first, though nothing has to be waited for: another process fetches them."""

    late = False

    def read(self, offset: int, length: int) -> bytes:
        if self.late:
            raise NotHereError([])
        return super().read(offset, length)


def test_an_index_is_complete_whoever_fetches_its_bytes(dp2_repo: SimulatedRepository) -> None:
    path = next(dp2_repo.root.rglob("deep_coadd*.fits"))
    options = ReaderOptions(planes=("image", "variance", "psf"))
    source = Late(str(path), str(path))
    coadd = Coadd(source)
    source.late = True
    with pytest.raises(NotHereError):
        _index_of(coadd, options)
    source.late = False
    assert _index_of(coadd, options).layouts.keys() == {"image", "variance"}
    source.close()
