"""Files that are cut off are found when they are opened."""

import contextlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler
from lsst.images.serialization import write_archive

from lsstcutouts.errors import CorruptFileError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.source.byte_source import LocalSource
from lsstcutouts.testing import SimulatedRepository

from ..support.afw import LTV, planes, save
from .test_coadd_images import masked_image


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


def ends(path: Path) -> dict[str, int]:
    """Return the byte after the data of each plane."""
    with fits.open(path, disable_image_compression=True) as hdus:
        return {
            name.lower(): hdus[name].fileinfo()["datLoc"] + hdus[name].size for name in ("IMAGE", "MASK", "VARIANCE")
        }


@pytest.mark.parametrize("name", ["dp1_repo", "dp2_repo"])
def test_cut_at_every_boundary(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A plane that is cut is found before a pixel of it is read, the image on opening; whole planes are read."""
    whole = first_file(request.getfixturevalue(name))
    content, lengths, last, path = whole.read_bytes(), cuts(whole), ends(whole), tmp_path / "cut.fits"
    assert len(lengths) > 40
    with open_coadd(whole) as same:
        right = {plane: same.read(plane) for plane in same.planes}
        psf = same.psf if name == "dp2_repo" else None
    for length in lengths:
        path.write_bytes(content[:length])
        if length < last["image"]:
            for size in (None, -1, length):
                with pytest.raises(CorruptFileError, match=r"cut\.fits"):
                    open_coadd(path, size=size)
            continue
        with open_coadd(path, size=length) as coadd:
            for plane, end in last.items():
                if end <= length:
                    np.testing.assert_array_equal(coadd.read(plane), right[plane])
                    assert plane in coadd.planes
                else:
                    with pytest.raises(CorruptFileError, match=rf"cut\.fits: {plane} plane: .*(truncated|END)"):
                        coadd.layout(plane)
            with contextlib.suppress(CorruptFileError, PlaneError):
                assert coadd.psf == psf  # its table is there: only the index behind it is cut
        with pytest.raises(CorruptFileError, match="the repository recorded"):
            open_coadd(path, size=len(content))
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
    content, last = whole.read_bytes(), ends(whole)
    with fits.open(whole) as hdus:
        boundaries = [hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus]
    for length in cuts(whole):
        whole.write_bytes(content[:length])
        if length < last["image"]:
            with pytest.raises((CorruptFileError, UnsupportedFormatError), match=r"whole\.fits"):
                open_coadd(whole)
            continue
        with open_coadd(whole) as coadd:
            for plane in (plane for plane, end in last.items() if end > length):
                with pytest.raises(PlaneError if length in boundaries else CorruptFileError, match=r"whole\.fits"):
                    coadd.layout(plane)


@pytest.mark.parametrize("in_image", [True, False])
def test_the_archive_is_announced_in_either_header(tmp_path: Path, in_image: bool) -> None:
    """Before headers were inherited the image had all keywords. It only tells why a plane is not there."""
    here = {"AR_HDU": 5}
    hdus = planes(LTV | (here if in_image else {}))
    with open_coadd(save(tmp_path / "cut.fits", hdus[:2], {} if in_image else here)) as coadd:
        assert coadd.planes == ("image", "mask")
        with pytest.raises(CorruptFileError, match=r"variance plane: not there; .* 3 HDUs, the headers announce 5"):
            coadd.read("variance")


def test_only_the_headers_up_to_a_plane_are_read(tmp_path: Path) -> None:
    class Counted(LocalSource):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            return super().read(offset, length)

    path = str(save(tmp_path / "coadd.fits", [*planes(LTV), *planes(LTV, named=False)]))
    with Coadd(source := Counted(path, path)) as coadd:
        assert source.reads == 2
        coadd.layout("mask")
        assert source.reads == 3


def test_a_mask_that_may_go_on_behind_the_cut(tmp_path: Path) -> None:
    """``lsst.images`` writes an HDU for every 31 mask planes, which nothing in the first one says."""
    whole, cut = tmp_path / "whole.fits", tmp_path / "cut.fits"
    write_archive(masked_image(40), str(whole))
    with fits.open(whole, disable_image_compression=True) as hdus:
        places = {(hdu.name, hdu.ver): hdu.fileinfo()["hdrLoc"] for hdu in hdus}
    with open_coadd(whole) as same:
        bits = same.mask_planes
    cut.write_bytes(whole.read_bytes()[: places["MASK", 2]])
    with open_coadd(cut) as coadd:
        assert coadd.read("image").any()
        with pytest.raises(CorruptFileError, match="may continue after the truncation"):
            _ = coadd.mask_names
    cut.write_bytes(whole.read_bytes()[: places["VARIANCE", 1]])  # the second has nine planes: the last of them
    with open_coadd(cut) as coadd:
        assert coadd.mask_planes == bits


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
    with open_coadd(path) as coadd:
        assert coadd.read("image").any()
        with pytest.raises(CorruptFileError, match="psf plane: the JSON table"):
            _ = coadd.psf
