"""Nothing is judged but what is asked for: files as people have them, each with what nobody reads amiss."""

import dataclasses
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from lsst.images.serialization import write_archive
from numpy.typing import NDArray

from lsstcutouts.errors import CorruptFileError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository

from ..support.afw import GRID, LTV, SHAPE, image, mask, mask_cards, plane, planes, save
from ..support.faulty import copied, file_of
from .test_coadd_images import masked_image

PLANES = ("image", "mask", "variance")


def with_card(content: bytes, key: str, value: str, nth: int = 0) -> bytes:
    """Return a file with another value in the ``nth`` card of a name; None for the value takes the card away."""
    at = -1
    for _ in range(nth + 1):
        at = content.index(f"{key:<8}=".encode(), at + 1)
    card = f"{key:<8}= {value:>20}" if value else "COMMENT"
    return content[:at] + card.ljust(80).encode() + content[at + 80 :]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_as_astropy(path: Path, names: tuple[str, ...] = PLANES) -> None:
    with fits.open(path) as hdus, open_coadd(path) as coadd:
        for number, name in enumerate(names, 1):
            np.testing.assert_array_equal(coadd.read(name), hdus[number].data)
        assert coadd.planes == names


# Parts that were cut away, and bytes that follow


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_archive_tables_cut_away(tmp_path: Path, compression: str | None) -> None:
    """Cutouts of HSC as their archive hands them out: the keywords of the archive are still there."""
    hdus = planes(LTV, named=False, compression=compression)
    path = save(tmp_path / "hsc.fits", hdus, {"AR_HDU": 5, "FLUXMAG0": 63095734448.0194})
    assert_as_astropy(path)
    with open_coadd(path) as coadd:
        assert coadd.flux_scale == pytest.approx(10**12.56 / 63095734448.0194)
        with pytest.raises(PlaneError, match="no PSF"):
            _ = coadd.psf


@pytest.mark.parametrize("tail", [bytes(2880), bytes(1440), b"garbage" * 500, b"\x1a", b"XTENSIO" * 300, bytes(5760)])
def test_bytes_behind_the_last_hdu(tmp_path: Path, tail: bytes) -> None:
    whole = save(tmp_path / "whole.fits", planes(LTV)).read_bytes()
    assert_as_astropy(written(tmp_path / "tail.fits", whole + tail))
    # What is not there is said to be cut off only where something speaks for it.
    bare = save(tmp_path / "bare.fits", planes(LTV)[:1]).read_bytes()
    told = "mask plane: not there; the file is damaged, or something else"
    with (
        open_coadd(written(tmp_path / "bare.fits", bare + tail)) as coadd,
        pytest.raises(CorruptFileError, match=told),
    ):
        coadd.read("mask")
    with open_coadd(written(tmp_path / "bare.fits", bare)) as coadd, pytest.raises(PlaneError, match="no mask plane"):
        coadd.read("mask")


def test_a_header_that_nobody_needs_is_cut_or_damaged(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.fits", [*planes(LTV), *planes(LTV)], {"AR_HDU": 9}).read_bytes()
    starts = [at for at in range(0, len(whole), 2880) if whole[at : at + 9] == b"XTENSION="]
    for content in (
        whole[: starts[3] + 500],
        whole[: starts[3]] + whole[starts[3] :].replace(b"NAXIS1  =", b"NAXISX  =", 1),
        whole[: starts[3]]
        + whole[starts[3] :].replace(b"BITPIX  =                  -32", b"BITPIX  =               'nine'", 1),
    ):
        with open_coadd(written(tmp_path / "cut.fits", content)) as coadd:
            assert coadd.planes == PLANES
            for name, pixels in zip(PLANES, (image(), mask(), image(2) ** 2), strict=True):
                np.testing.assert_array_equal(coadd.read(name), pixels)


@pytest.mark.parametrize("how", ["first planes", "more cards", "tail of garbage", "index damaged"])
def test_files_of_lsst_images_that_another_program_wrote(tmp_path: Path, how: str) -> None:
    """The addresses in the primary header are then those of another file."""
    whole, path = tmp_path / "whole.fits", tmp_path / "changed.fits"
    write_archive(masked_image(40), str(whole))
    content = whole.read_bytes()
    if how in {"first planes", "more cards"}:
        with fits.open(whole, disable_image_compression=True) as hdus:
            if how == "more cards":
                hdus["IMAGE"].header.update({f"EXTRA{n}": n for n in range(99)})
            hdus[: 5 if how == "first planes" else len(hdus)].writeto(path)
    elif how == "tail of garbage":
        path.write_bytes(content + b"more" * 99)
    else:
        at = content.index(b"INDXADDR=")
        path.write_bytes(content[:at] + b"INDXADDR=                 2880".ljust(80) + content[at + 80 :])
    with open_coadd(path) as coadd, open_coadd(whole) as same:
        assert coadd.planes == same.planes == (*PLANES, "mask2")
        assert coadd.mask_planes == same.mask_planes
        for name in coadd.planes:
            np.testing.assert_array_equal(coadd.read(name), same.read(name))


def test_a_cut_file_in_a_repository(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    """Planning and reading ask for what they need: here for all but the PSF."""
    repo = copied(dp2_repo, tmp_path / "copy")
    arguments = {"collections": repo.collections, "bands": "r", "size": 16}
    options = ReaderOptions(planes=("image", "variance", "valid"))
    whole = build_plan(repo.root, repo.truth, **arguments)
    good = CutoutReader(whole, options).read(np.arange(len(whole)))
    for patch in repo.patches:
        path = file_of(repo, patch, "r")
        with fits.open(path, disable_image_compression=True) as hdus:
            end = hdus["VARIANCE"].fileinfo()["datLoc"] + hdus["VARIANCE"].fileinfo()["datSpan"]
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:end])
    with pytest.raises(CorruptFileError, match="the repository recorded"):
        open_coadd(path, size=len(content))
    files = dataclasses.replace(whole.files, size=tuple(-1 for _ in whole.files.size))
    found = CutoutReader(dataclasses.replace(whole, files=files), options).read(np.arange(len(whole)))
    for name in options.planes:
        np.testing.assert_array_equal(found[name], good[name])


# Text


@pytest.mark.parametrize("where", ["comment", "value", "HISTORY", "primary", "key"])
def test_bytes_beyond_ascii_that_nobody_reads(tmp_path: Path, where: str) -> None:
    """The standard forbids them; astropy and cfitsio read such files."""
    hdus = planes(LTV)
    primary = {"OBSERVER": "Nunez"} if where == "primary" else {}
    if where == "comment":
        hdus[0].header["AIRMASS"] = (1.2, "by Nunez")
    elif where == "value":
        hdus[0].header["OBSERVER"] = "Nunez"
    elif where == "HISTORY":
        hdus[0].header["HISTORY"] = "made by Nunez"
    elif where == "key":
        hdus[0].header["NUNEZKEY"] = 1
    content = save(tmp_path / "text.fits", hdus, primary).read_bytes()
    old, new = (b"NUNEZ", b"NU\xd1EZ") if where == "key" else (b"Nunez", b"Nu\xf1ez")
    assert old in content
    path = written(tmp_path / "text.fits", content.replace(old, new))
    np.testing.assert_array_equal(fitsio.read(str(path), 1), image())
    with open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.read("image"), image())
        np.testing.assert_array_equal(coadd.read("variance"), image(2) ** 2)


def test_bytes_beyond_ascii_in_values_that_are_needed(tmp_path: Path) -> None:
    hdus = planes(LTV)
    hdus[0].header["BUNIT"] = "uJy"
    content = save(tmp_path / "text.fits", hdus).read_bytes()
    with open_coadd(written(tmp_path / "text.fits", content.replace(b"'uJy", b"'\xb5Jy"))) as coadd:
        assert coadd.unit("image") == "µJy"
        assert coadd.flux_scale == pytest.approx(1000.0)
    nameless = content.replace(b"'IMAGE ", b"'\xcdMAGE ")  # in EXTNAME and EXTTYPE
    with pytest.raises(UnsupportedFormatError, match="no image plane"):
        open_coadd(written(tmp_path / "text.fits", nameless))
    with pytest.raises(CorruptFileError, match="LTV1 is '15\xb2'"):
        open_coadd(written(tmp_path / "text.fits", content.replace(b"-14850.0", b"    15\xb2 ", 1)))


def test_bits_of_mask_planes_that_nobody_asks_for(tmp_path: Path) -> None:
    cards = mask_cards() | {"MP_WRONG": 45, "MP_TEXT": "x"}
    hdus = [plane(image(), LTV, name="IMAGE"), plane(mask(), LTV, cards, name="MASK")]
    with open_coadd(save(tmp_path / "bits.fits", hdus)) as coadd:
        assert coadd.mask_location("NO_DATA") == ("mask", 8)
        assert {"WRONG", "TEXT"} < set(coadd.mask_names)
        for name in ("WRONG", "TEXT"):
            with pytest.raises(CorruptFileError, match=f"mask plane: header keyword MP_{name}"):
                coadd.mask_location(name)


# Images without a name


@pytest.mark.parametrize("compression", ["RICE", "GZIP", "GZIP_2", "HCOMPRESS", "PLIO", None])
@pytest.mark.parametrize("beside", ["nothing", "mask and variance", "a table first", "a named image behind"])
def test_a_single_image_without_a_name(tmp_path: Path, compression: str | None, beside: str) -> None:
    """As cfitsio, fpack and fitsio write a compressed image: in the first extension, with neither EXTNAME nor EXTTYPE."""
    pixels: NDArray[np.generic] = image()
    if compression == "PLIO":
        pixels = (mask() % 3).astype(np.int32)  # cfitsio's encoder crashes on noise
    elif compression == "HCOMPRESS":
        pixels = mask(np.int16)
    path = str(tmp_path / "unnamed.fits")
    header = {**LTV, **GRID}
    with fitsio.FITS(path, "rw") as file:
        if compression is None or beside == "a table first":
            file.write(None)  # the primary HDU, which fitsio writes by itself before a compressed image
        if beside == "a table first":
            file.write(np.zeros(3, [("x", "f4")]))
        lossless = {"qlevel": 0.0} if compression in {"GZIP", "GZIP_2"} else {}
        file.write(pixels, header=header, compress=compression, **lossless)
        number = len(file) - 1
        if beside == "mask and variance":
            file.write(mask(), header={**LTV, **mask_cards()}, extname="MASK")
            file.write(image(2), header=LTV, extname="VARIANCE")
        elif beside == "a named image behind":
            file.write(image(9), header=LTV, extname="IMAGE")
            number += 1
        expected = file[number].read()
    with open_coadd(path) as coadd:
        assert coadd.bbox.start == (-LTV["LTV2"], -LTV["LTV1"])
        assert coadd.layout("image").hdu == number
        np.testing.assert_array_equal(coadd.read("image"), expected.astype(np.float32))
        assert coadd.projection.crval == (53.0, -28.0) if beside != "a named image behind" else True
        assert coadd.planes == (PLANES if beside == "mask and variance" else ("image",))


# Tiles


@pytest.mark.parametrize(("compression", "size"), [("PLIO_1", 2), ("RICE_1", 1), ("GZIP_2", 1), ("HCOMPRESS_1", 1)])
def test_tiles_that_share_a_stream(tmp_path: Path, compression: str, size: int) -> None:
    """As IRAF writes equal lines of a mask once."""
    pixels = np.zeros((64, 32), np.int32)
    pixels[:, 5:9] = 3
    tile = (4 if compression == "HCOMPRESS_1" else 1, 32)
    hdu = fits.CompImageHDU(pixels, compression_type=compression, tile_shape=tile)
    hdus = [plane(np.ones((64, 32), np.float32), LTV, name="IMAGE"), hdu]
    hdu.name, hdu.header["LTV1"], hdu.header["LTV2"] = "MASK", LTV["LTV1"], LTV["LTV2"]
    content = bytearray(save(tmp_path / "shared.fits", hdus).read_bytes())
    with fits.open(tmp_path / "shared.fits", disable_image_compression=True) as found:
        at, rows = found[2].fileinfo()["datLoc"], found[2].header["NAXIS2"]
    table = np.frombuffer(content[at : at + 8 * rows], ">i4").reshape(-1, 2).copy()
    length = int(table[0, 0]) * size
    table[:, 1] = 0
    content[at : at + 8 * rows] = table.tobytes()
    short = bytes(content[: at + 8 * rows + length])
    path = written(tmp_path / "shared.fits", with_card(short, "PCOUNT", str(length), 1) + bytes(-len(short) % 2880))
    np.testing.assert_array_equal(fits.getdata(path, 2), pixels)
    np.testing.assert_array_equal(fitsio.read(str(path), 2), pixels)
    with open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.read("mask"), pixels)


def quantised(tmp_path: Path, compression: str = "RICE_1", method: int = 1) -> bytes:
    pixels = np.random.default_rng(1).normal(5, 2, SHAPE).astype(np.float32)
    hdu = fits.CompImageHDU(
        pixels, compression_type=compression, tile_shape=(7, 30), quantize_method=method, dither_seed=7
    )
    hdu.name, hdu.header["LTV1"], hdu.header["LTV2"] = "IMAGE", LTV["LTV1"], LTV["LTV2"]
    return save(tmp_path / "quantised.fits", [hdu]).read_bytes()


@pytest.mark.parametrize("method", [1, 2])
@pytest.mark.parametrize(
    ("key", "value", "error", "told"),
    [
        ("ZDITHER0", "", UnsupportedFormatError, "without the seed, ZDITHER0"),
        ("ZDITHER0", "0", CorruptFileError, "ZDITHER0 is 0"),
        ("ZDITHER0", "-5", CorruptFileError, "ZDITHER0 is -5"),
        ("ZQUANTIZ", "'NONE    '", UnsupportedFormatError, "ZQUANTIZ is 'NONE', but tiles are scaled"),
        ("ZQUANTIZ", "'OTHER   '", UnsupportedFormatError, "quantisation 'OTHER'"),
    ],
)
def test_no_guess_where_readers_disagree(
    tmp_path: Path, method: int, key: str, value: str, error: type[Exception], told: str
) -> None:
    path = tmp_path / "quantised.fits"
    path.write_bytes(with_card(quantised(tmp_path, method=method), key, value))
    with open_coadd(path) as coadd, pytest.raises(error, match=told):
        coadd.read("image")


def test_how_integers_become_floats_matters_only_where_there_are_any(tmp_path: Path) -> None:
    """A tile of infinities is kept as gzipped floats."""
    pixels = np.full((30, 40), np.inf, np.float32)
    hdu = fits.CompImageHDU(pixels, compression_type="RICE_1", tile_shape=(15, 40), quantize_method=2, dither_seed=1)
    hdu.name, hdu.header["LTV1"], hdu.header["LTV2"] = "IMAGE", 0, 0
    content = save(tmp_path / "inf.fits", [hdu]).read_bytes()
    for key, value in (("ZDITHER0", ""), ("ZQUANTIZ", "'NONE    '"), ("ZQUANTIZ", "'OTHER   '")):
        with open_coadd(written(tmp_path / "inf.fits", with_card(content, key, value))) as coadd:
            np.testing.assert_array_equal(coadd.read("image"), pixels)


@pytest.mark.parametrize("compression", ["GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("scale", ["1.0", "0.5"])
def test_lossless_floats_beside_a_scale(tmp_path: Path, compression: str, scale: str) -> None:
    """``ZQUANTIZ = 'NONE'`` is cfitsio's word for them; a ZSCALE in the header is left over from something else."""
    hdu = fits.CompImageHDU(image(), compression_type=compression, tile_shape=(1, SHAPE[1]), quantize_level=0.0)
    hdu.name = "IMAGE"
    hdu.header.update({**LTV, "XKEY0": 1, "XKEY1": 1, "XKEY2": 1})
    content = save(tmp_path / "none.fits", [hdu]).read_bytes()
    for n, (key, value) in enumerate((("ZQUANTIZ", "'NONE    '"), ("ZSCALE", scale), ("ZZERO", "0.0"))):
        content = content.replace(f"XKEY{n}   =                    1".encode(), f"{key:<8}= {value:>20}".encode())
    assert_as_astropy(written(tmp_path / "none.fits", content), ("image",))


def integers(tmp_path: Path, cards: dict[str, str], dtype: type[np.generic], compression: str | None) -> Path:
    pixels = (np.arange(1200).reshape(30, 40) % 100).astype(dtype)
    hdu = fits.ImageHDU(pixels) if compression is None else fits.CompImageHDU(pixels, compression_type=compression)
    hdu.name = "IMAGE"
    hdu.header.update({**LTV, **{f"XKEY{n}": 1 for n in range(len(cards))}})
    content = save(tmp_path / "integers.fits", [hdu]).read_bytes()
    for n, (key, value) in enumerate(cards.items()):
        content = content.replace(f"XKEY{n}   =                    1".encode(), f"{key:<8}= {value:>20}".encode())
    return written(tmp_path / "integers.fits", content)


@pytest.mark.filterwarnings("ignore:Invalid 'BLANK' keyword")
@pytest.mark.parametrize("compression", [None, "GZIP_1", "RICE_1"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize(
    "cards",
    [
        {"ZBLANK": "7"},
        {"BLANK": "7"},
        {"BLANK": "7", "ZBLANK": "9"},
        {"BSCALE": "0.0"},
        {"BSCALE": "0.0", "BZERO": "5.5"},
        {"BSCALE": "0.0", "BZERO": "5.5", "BLANK": "7"},
    ],
    ids=str,
)
def test_blanks_and_scales_as_in_astropy(
    tmp_path: Path, cards: dict[str, str], dtype: type[np.generic], compression: str | None
) -> None:
    """A ZBLANK is none in an image that is not compressed; BSCALE 0 takes its pixels from that one alone."""
    assert_as_astropy(integers(tmp_path, cards, dtype, compression), ("image",))


def test_a_text_for_zblank_in_an_uncompressed_image(tmp_path: Path) -> None:
    assert_as_astropy(integers(tmp_path, {"ZBLANK": "'x'"}, np.int16, None), ("image",))


def test_settings_of_other_coders(tmp_path: Path) -> None:
    """``SMOOTH`` is HCOMPRESS's: a plane in RICE_1 has no use for it."""
    content = quantised(tmp_path)
    with fits.open(tmp_path / "quantised.fits") as hdus:
        expected = hdus[1].data
    content = with_card(content, "ZNAME1", "'SMOOTH'", 0)
    content = with_card(content, "ZVAL1", "'much'", 0)
    with open_coadd(written(tmp_path / "quantised.fits", content)) as coadd:
        np.testing.assert_array_equal(coadd.read("image"), expected)
