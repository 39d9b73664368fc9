"""Point-spread functions that are not there, of another kind, or damaged: each is named."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lsst.images as li
import lsst.images.fits
import numpy as np
import pytest
from astropy.io import fits
from lsst.images.cells import CellCoadd

from lsstcutouts.errors import ConfigurationError, CorruptFileError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.testing import SimulatedRepository

from ..support.psf import Counted, Tree, rewrite


def text(content: bytes) -> Callable[[Tree], bytes]:
    """Return an edit that puts other bytes in place of the tree."""
    return lambda _: content


def put(*keys: Any, value: Any) -> Callable[[Tree], None]:
    """Return an edit that sets one value of the PSF's tree."""

    def edit(tree: Tree) -> None:
        node = tree["psf"]
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return edit


def cut(*keys: str) -> Callable[[Tree], None]:
    """Return an edit that removes one value of the PSF's tree."""

    def edit(tree: Tree) -> None:
        node = tree["psf"]
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (text(b"{"), "JSON metadata is damaged"),
        (text(b"[" * 15000), "JSON metadata is damaged"),
        (text(b"1" * 5000), "JSON metadata is damaged"),
        (text(b"\xff\xfe"), "JSON metadata is damaged"),
        (text(b"[1]"), "is a list, not an object"),
        (lambda tree: tree.update(psf=[]), "psf in the JSON metadata is a list"),
        (put("array", value=3), r"no psf\.array\.source"),
        (cut("array", "shape"), r"no psf\.array\.shape"),
        (put("array", "shape", value=[5, 6, 35, 33]), r"psf\.array\.shape .* 33\]"),
        (put("array", "source", value="fits:NOWHERE"), "names an HDU that does not exist: fits:NOWHERE"),
        (put("array", "source", value="fits:PSF,2"), "names an HDU that does not exist: fits:PSF,2"),
        (put("bounds", value=None), r"no psf\.bounds\.grid"),
        (cut("bounds", "grid", "cell_shape"), r"no psf\.bounds\.grid\.cell_shape"),
        (put("bounds", "grid", "cell_shape", value=[75, 60]), r"psf\.bounds\.bbox .* is not .* cells of"),
        (put("bounds", "grid", "cell_shape", value=[60]), r"cell_shape .* not a \(y, x\) pair"),
        (put("bounds", "grid", "cell_shape", value={"y": 60, "z": 75}), r"not a \(y, x\) pair"),
        (put("bounds", "grid", "cell_shape", value=[60, "75"]), "'75', not an integer"),
        (put("bounds", "grid", "cell_shape", value=[60, True]), "True, not an integer"),
        (put("bounds", "grid", "cell_shape", value=[60, 75.0]), "75.0, not an integer"),
        (put("bounds", "grid", "cell_shape", value=[0, 75]), "0, not an integer from 1"),
        (put("bounds", "bbox", value=3), r"psf\.bounds\.bbox .* not a \(y, x\) pair"),
        (put("bounds", "bbox", "y", value=[0, 300]), "not an interval"),
        (put("bounds", "bbox", "y", value={"start": 600, "stop": 300}), "is empty"),
        (put("bounds", "bbox", "y", "stop", value=10**30), "not an integer from"),
        (put("bounds", "grid", "bbox", "x", "start", value=1), "does not start with a cell"),
        (put("bounds", "missing", value={"i": 0, "j": 0}), r"psf\.bounds\.missing .* is a dict, not a list"),
        (put("bounds", "missing", value=[[0, 0, 0]]), r"not a \(y, x\) pair"),
        (put("bounds", "missing", value=[{"i": 0, "j": None}]), "None, not an integer"),
        (put("min_read_version", value="2"), "min_read_version"),
    ],
)
def test_damaged_trees(
    tmp_path: Path, with_hole: tuple[Path, CellCoadd], edit: Callable[[Tree], Any], message: str
) -> None:
    path = rewrite(with_hole[0], tmp_path / "damaged.fits", edit)
    with open_coadd(path) as coadd:
        for _ in range(2):
            with pytest.raises(CorruptFileError, match=message) as caught:
                _ = coadd.psf
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 400 + len(str(path))
        with pytest.raises(CorruptFileError):
            coadd.read_psf([0])
        # The pixels do not need the tree.
        assert coadd.read("image").shape == coadd.bbox.shape


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("min_read_version", value=2), "needs a reader of version 2"),
        (put("array", value={"data": [[[[1.0]]]], "datatype": "float64"}), "kernels inside the JSON metadata"),
        (put("array", "source", value="asdf:1"), "kernels in 'asdf:1'"),
        (put("array", "source", value=7), "kernels in '7'"),
        (put("array", "source", value="fits:IMAGE"), "2 dimensions, not four"),
    ],
)
def test_trees_of_other_writers(
    tmp_path: Path, with_hole: tuple[Path, CellCoadd], edit: Callable[[Tree], Any], message: str
) -> None:
    path = rewrite(with_hole[0], tmp_path / "other.fits", edit)
    with open_coadd(path) as coadd, pytest.raises(UnsupportedFormatError, match=message):
        _ = coadd.psf


def test_missing_cells_beyond_the_grid_are_no_cells(tmp_path: Path, with_hole: tuple[Path, CellCoadd]) -> None:
    beyond = put("bounds", "missing", value=[[-1, 0], [0, 10**9], [1, 2], [1, 2]])
    path = rewrite(with_hole[0], tmp_path / "beyond.fits", beyond)
    with open_coadd(path) as coadd:
        assert coadd.psf.missing == {1 * coadd.psf.grid.x + 2}


@pytest.mark.parametrize(("length", "error"), [(1 << 24, UnsupportedFormatError), (1 << 22, CorruptFileError)])
def test_trees_longer_than_can_be(
    tmp_path: Path, with_hole: tuple[Path, CellCoadd], length: int, error: type[Exception]
) -> None:
    path = tmp_path / "long.fits"
    content = bytearray(with_hole[0].read_bytes())
    at = content.index(b'{"schema_version"') - 8
    content[at : at + 4] = length.to_bytes(4)
    path.write_bytes(content)
    with open_coadd(path) as coadd, pytest.raises(error, match="JSON metadata"):
        _ = coadd.psf


def test_afw_files_say_why_not(dp1_repo: SimulatedRepository) -> None:
    path = next(Path(dp1_repo.root).rglob("*.fits"))
    with open_coadd(path) as coadd:
        with pytest.raises(PlaneError, match="CoaddPsf in archive tables of afw, which only the LSST stack") as caught:
            _ = coadd.psf
        assert str(path) in str(caught.value)
        with pytest.raises(PlaneError, match="cell coadds of DP2"):
            coadd.read_psf([0])


def test_other_kinds_of_psf(tmp_path: Path, with_hole: tuple[Path, CellCoadd]) -> None:
    gaussian = {"sigma": 2.0, "stamp_size": 35, "schema_url": "https://images.lsst.io/schemas/gaussian_psf-1.0.0"}
    path = rewrite(with_hole[0], tmp_path / "gaussian.fits", lambda tree: tree.update(psf=gaussian))
    with open_coadd(path) as coadd, pytest.raises(PlaneError, match=r"of the kind 'gaussian_psf-1\.0\.0'"):
        _ = coadd.psf


def test_masked_images_have_no_psf(tmp_path: Path, with_hole: tuple[Path, CellCoadd]) -> None:
    whole = with_hole[1]
    masked = li.MaskedImage(whole.image, mask=whole.mask, variance=whole.variance, sky_projection=whole.sky_projection)
    lsst.images.fits.write(masked, tmp_path / "masked.fits")
    with open_coadd(tmp_path / "masked.fits") as coadd, pytest.raises(PlaneError, match="has no PSF"):
        _ = coadd.psf


def test_cells_without_a_psf_are_refused(with_hole: tuple[Path, CellCoadd]) -> None:
    with open_coadd(with_hole[0]) as coadd:
        grid = coadd.psf
        for cell in (-1, grid.grid.y * grid.grid.x, *grid.missing):
            with pytest.raises(ConfigurationError, match=f"cell {cell} of"):
                coadd.read_psf([cell])
        assert coadd.read_psf([]) == []


def test_damaged_tiles_are_named(tmp_path: Path, with_hole: tuple[Path, CellCoadd]) -> None:
    source = Counted(with_hole[0])
    with Coadd(source) as coadd:
        cell = next(iter(set(range(30)) - coadd.psf.missing - {0}))
        source.reads.clear()
        coadd.read_psf([cell])
        ((offset, length),) = source.reads
    content = bytearray(with_hole[0].read_bytes())
    content[offset : offset + length] = bytes(length)
    (tmp_path / "zeros.fits").write_bytes(content)
    with open_coadd(tmp_path / "zeros.fits") as coadd:
        with pytest.raises(CorruptFileError, match=rf"zeros\.fits: psf plane: tile {35 * cell}"):
            coadd.read_psf([cell])
        assert np.isfinite(coadd.read_psf([0])[0]).all()


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("NAXIS2", "1049"),
        ("ZNAXIS", "3"),
        ("ZNAXIS1", "34"),
        ("ZNAXIS1", "0"),
        ("ZNAXIS1", "4000000"),
        ("ZNAXIS3", "5"),
        ("ZNAXIS4", "1000000000000"),
        ("ZTILE3", "2"),
        ("ZBITPIX", "16"),
        ("ZBITPIX", "7"),
        ("TFORM1", "'1E'"),
        ("TFORM1", "'1PB(-'"),
        ("ZCMPTYPE", "'UNKNOWN'"),
    ],
)
def test_wrong_headers(tmp_path: Path, with_hole: tuple[Path, CellCoadd], card: str, value: str) -> None:
    """Whatever the header of the array says, what comes is an error of this package or a kernel of the right shape."""
    content = bytearray(with_hole[0].read_bytes())
    with fits.open(with_hole[0]) as hdus:
        start = next(int(row["HDRADDR"]) for row in hdus["INDEX"].data if row["EXTNAME"] == "PSF")
    at = content.index(card.ljust(8).encode() + b"=", start)
    content[at : at + 80] = f"{card:<8}= {value:>20}".ljust(80).encode()
    (tmp_path / "wrong.fits").write_bytes(content)
    with open_coadd(tmp_path / "wrong.fits") as coadd, suppress(CorruptFileError, UnsupportedFormatError):
        for kernel in coadd.read_psf([0, 7]):
            assert kernel.shape == (35, 35)
