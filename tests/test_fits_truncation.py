"""Files that are cut off are found when they are opened."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler

from lsstcutouts.errors import CorruptFileError, ReadError
from lsstcutouts.fits import Coadd, open_coadd
from lsstcutouts.fits.source import LocalSource
from lsstcutouts.simulate import SimulatedRepository

from .afw import LTV, planes, save


def first_file(repo: SimulatedRepository) -> Path:
    with Butler.from_config(repo.root, collections=repo.collections) as butler:
        return Path(butler.getURI(min(butler.query_datasets(repo.dataset_type))).ospath)


def cuts(path: Path) -> list[int]:
    """Return lengths that end at every boundary of a file's structure, one byte beside it, and between two."""
    with fits.open(path, disable_image_compression=True) as hdus:
        edges = [0]
        for hdu in hdus:
            info = hdu.fileinfo()
            start, size = info["datLoc"], hdu.size
            edges += [info["hdrLoc"], start, start + size, start + info["datSpan"]]
    last_data = max(edge for edge in edges[:-1])
    edges = sorted({*edges})
    middles = [(a + b) // 2 for a, b in pairwise(edges)]
    near = [edge + step for edge in edges for step in (-1, 1)]
    # Behind the last data there is only the filling of the last block.
    return sorted({at for at in (*edges, *middles, *near) if 0 <= at < last_data})


@pytest.mark.parametrize("name", ["dp1_repo", "dp2_repo"])
def test_cut_at_every_boundary(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    whole = first_file(request.getfixturevalue(name))
    content, lengths, path = whole.read_bytes(), cuts(whole), tmp_path / "cut.fits"
    assert len(lengths) > 40
    for length in lengths:
        path.write_bytes(content[:length])
        for size in (None, -1, length):
            with pytest.raises(ReadError, match=r"cut\.fits") as caught:
                open_coadd(path, size=size)
            assert isinstance(caught.value, CorruptFileError), length
    path.write_bytes(content)
    with open_coadd(path, size=len(content)) as coadd, open_coadd(whole) as same:
        np.testing.assert_array_equal(coadd.read("image"), same.read("image"))


@pytest.mark.parametrize("name", ["dp1_repo", "dp2_repo"])
def test_the_filling_of_the_last_block_may_be_missing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Nothing is lost, and the file itself says that nothing follows."""
    whole = first_file(request.getfixturevalue(name))
    with fits.open(whole, disable_image_compression=True) as hdus:
        end = hdus[-1].fileinfo()["datLoc"] + hdus[-1].size
    if name == "dp2_repo":
        end = len(whole.read_bytes())  # the header names the size of the index with its filling
    path = tmp_path / "bare.fits"
    path.write_bytes(whole.read_bytes()[:end])
    with open_coadd(path) as coadd, open_coadd(whole) as same:
        np.testing.assert_array_equal(coadd.read("image"), same.read("image"))


def test_files_without_an_archive(tmp_path: Path) -> None:
    """Whole HDUs may be missing and nothing tells; a cut anywhere else does."""
    whole = save(tmp_path / "whole.fits", planes(LTV))
    content = whole.read_bytes()
    with fits.open(whole) as hdus:
        ends = [hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus]
    for length in cuts(whole):
        whole.write_bytes(content[:length])
        if length in ends[1:]:
            assert "image" in open_coadd(whole).planes
            continue
        with pytest.raises(ReadError, match=r"whole\.fits"):
            open_coadd(whole)


@pytest.mark.parametrize("in_image", [True, False])
def test_the_archive_is_announced_in_either_header(tmp_path: Path, in_image: bool) -> None:
    """Before headers were inherited the image had all keywords."""
    here = {"AR_HDU": 5}
    hdus = planes(LTV | (here if in_image else {}))
    with pytest.raises(CorruptFileError, match="truncated: 4 HDUs, the headers announce 5"):
        open_coadd(save(tmp_path / "cut.fits", hdus, {} if in_image else here))


def test_a_remote_file_of_the_recorded_size_is_not_walked(tmp_path: Path) -> None:
    class Counted(LocalSource):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            return super().read(offset, length)

    path = str(save(tmp_path / "coadd.fits", [*planes(LTV), *planes(LTV, named=False)]))
    for whole, reads in ((False, 2), (True, 7)):
        source = Counted(path, path)
        with Coadd(source, whole=whole):
            assert source.reads == reads


def test_bytes_behind_the_archive_are_ignored(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    """The standard allows special records after the last HDU."""
    path = tmp_path / "more.fits"
    path.write_bytes(first_file(dp1_repo).read_bytes() + b"special record")
    with open_coadd(path) as coadd:
        assert coadd.read("variance").shape == coadd.bbox.shape


def test_an_index_that_names_no_tree(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    path = tmp_path / "renamed.fits"
    content = first_file(dp2_repo).read_bytes()
    at = content.rindex(b"JSON")
    path.write_bytes(content[:at] + b"TREE" + content[at + 4 :])
    with pytest.raises(CorruptFileError, match="JSON"):
        open_coadd(path)
