"""Coadd files of other times and tools, and files that are none."""

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import CorruptFileError, MissingFileError, PlaneError, ReadError, UnsupportedFormatError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.headers import BadStructureError, Cards, table_dtype
from lsstcutouts.sky.geometry import Box


def save(path: Path, *hdus: fits.ImageHDU | fits.CompImageHDU | fits.PrimaryHDU, origin: bool = True) -> Path:
    if origin:
        for hdu in hdus:
            hdu.header["LTV1"], hdu.header["LTV2"] = -1000, 50
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path)
    return path


def ramp(dtype: type = np.float32) -> np.ndarray:
    return np.arange(30 * 40).reshape(30, 40).astype(dtype)


def test_planes_by_exttype_and_unsigned_masks(tmp_path: Path) -> None:
    """HSC files of 2015 to 2020: no EXTNAME but what compression adds, uint16 masks with BZERO, long MP_ names as HIERARCH."""
    image, mask = fits.ImageHDU(ramp()), fits.CompImageHDU(ramp(np.uint16), tile_shape=(1, 40))
    image.header["EXTTYPE"], mask.header["EXTTYPE"] = "IMAGE", "MASK"
    mask.header["MP_BAD"], mask.header["HIERARCH MP_DETECTED_NEGATIVE"] = 0, 6
    with open_coadd(save(tmp_path / "hsc.fits", image, mask)) as coadd:
        assert coadd.planes == ("image", "mask")
        assert coadd.bbox == Box(-50, -20, 1000, 1040)
        assert coadd.mask_planes == {"BAD": 0, "DETECTED_NEGATIVE": 6}
        pixels = coadd.read("mask")
        assert pixels.dtype == np.int32
        np.testing.assert_array_equal(pixels, ramp(np.int32))
        with pytest.raises(PlaneError, match="no variance plane; it has image, mask"):
            coadd.read("variance")


def test_image_in_the_primary_hdu(tmp_path: Path) -> None:
    path = save(tmp_path / "old.fits", fits.PrimaryHDU(ramp(np.int16)))
    with open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.read("image"), ramp())
        assert coadd.planes == ("image",)


def test_origin_from_the_second_wcs(tmp_path: Path) -> None:
    image = fits.ImageHDU(ramp(), name="IMAGE")
    image.header["CRPIX1A"], image.header["CRPIX2A"] = 1.0, 1.0
    image.header["CRVAL1A"], image.header["CRVAL2A"] = 14850.0, -150.0
    with open_coadd(save(tmp_path / "a.fits", image, origin=False)) as coadd:
        assert coadd.bbox == Box(-150, -120, 14850, 14890)
        with pytest.raises(UnsupportedFormatError, match="only TAN and TAN-SIP are read"):
            _ = coadd.projection
        with pytest.raises(UnsupportedFormatError, match="no celestial WCS"):
            _ = coadd.wcs


def test_sip_distortions_move_with_the_origin(tmp_path: Path) -> None:
    image = fits.ImageHDU(ramp(), name="IMAGE")
    image.header.update(
        CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", CRVAL1=50.0, CRVAL2=-30.0, CRPIX1=10.0, CRPIX2=12.0,
        CD1_1=-5e-5, CD2_2=5e-5, RADECSYS="ICRS", A_ORDER=2, B_ORDER=2, A_2_0=1e-4, B_0_2=-2e-4,
    )  # fmt: skip
    path = save(tmp_path / "sip.fits", image)
    with open_coadd(path) as coadd:
        del image.header["RADECSYS"]
        expected = WCS(image.header).all_pix2world([[3.0, 20.0]], 0)
        assert coadd.wcs.wcs.radesys == "ICRS"
        np.testing.assert_allclose(coadd.wcs.all_pix2world([[1003.0, -30.0]], 0), expected, rtol=0, atol=1e-12)
        got = coadd.projection.pixel_to_sky(-30.0, 1003.0)
        np.testing.assert_allclose(np.stack(got), expected[0], rtol=0, atol=1e-11)


def test_wide_descriptors_are_read(tmp_path: Path) -> None:
    """64-bit descriptors (1QB), which writers use for large files."""
    pixels = ramp()
    path = save(tmp_path / "q.fits", fits.CompImageHDU(pixels, name="IMAGE", tile_shape=(5, 40), quantize_level=0.0,
                                                       compression_type="GZIP_2"))  # fmt: skip
    with fits.open(path, disable_image_compression=True) as hdus:
        table, header = hdus[1].data, hdus[1].header
        streams = [np.asarray(row["COMPRESSED_DATA"]) for row in table]
        heap_order = np.empty(len(streams), object)
        heap_order[:] = streams
        wide = fits.BinTableHDU.from_columns([fits.Column("COMPRESSED_DATA", "1QB()", array=heap_order)])
        for card in header.cards:
            if card.keyword.startswith(("Z", "EXTNAME", "LTV")):
                wide.header.append(card)
        fits.HDUList([fits.PrimaryHDU(), wide]).writeto(tmp_path / "wide.fits")
    with open_coadd(tmp_path / "wide.fits") as coadd:
        np.testing.assert_array_equal(coadd.read("image"), pixels)


@pytest.mark.parametrize(
    ("shape", "tile", "unit"),
    [
        ((3300, 3300), (150, 150), (150, 150)),  # DP2: 90 kB
        ((3400, 3400), (1, 3400), (14, 3400)),  # DP1: 190 kB
        ((4200, 4100), (1, 4100), (12, 4100)),  # DP0.2
        ((90, 120), (1, 120), (90, 120)),  # a whole small plane
        ((3000, 3000), (50, 50), (250, 200)),
    ],
)
def test_unit_shapes(tmp_path: Path, shape: tuple[int, int], tile: tuple[int, int], unit: tuple[int, int]) -> None:
    path = tmp_path / "zeros.fits"
    hdu = fits.CompImageHDU(np.zeros(shape, np.uint8), name="IMAGE", compression_type="RICE_1", tile_shape=tile)
    save(path, hdu)
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
        assert layout.unit_shape == unit
        assert layout.nbytes < 40 * layout.tile_grid.y * layout.tile_grid.x + 1000


# Headers

cards = st.one_of(
    st.booleans(),
    st.integers(-(10**15), 10**15),
    st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-290),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50),
    st.none(),
)


@given(
    values=st.dictionaries(
        st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=8).filter(
            lambda key: key not in {"END", "COMMENT", "HISTORY", "HIERARCH", "CONTINUE", "SIMPLE", "XTENSION"}
        ),
        cards,
        max_size=20,
    ),
    comment=st.sampled_from(["", "a comment", "it's / one"]),
)
def test_keywords_are_what_astropy_wrote(values: dict[str, object], comment: str) -> None:
    header = fits.Header([(key, value, comment) for key, value in values.items() if len(str(value)) < 40])
    parsed = Cards(header.tostring())
    assert list(parsed) == list(header)
    for key in header:
        expected = header[key]
        if isinstance(expected, fits.card.Undefined):
            assert parsed.get(key, 1) is None
        else:
            # astropy writes floats with 16 digits and reads them back from there; strings it does not always read
            # back (a quote before a slash), so that these are compared with what was written.
            if not isinstance(expected, str):
                expected = fits.Header.fromstring(header.tostring())[key]
            assert parsed.get(key) == (expected.rstrip() if isinstance(expected, str) else expected)
            assert type(parsed.get(key)) is type(expected)


def test_long_keywords_and_repeated_ones() -> None:
    header = fits.Header([("HIERARCH MP_SENSOR_EDGE", 17), ("NAXIS", 2), ("COMMENT", "NAXIS = 3")])
    text = header.tostring(padding=False, endcard=False) + "NAXIS   =                    5".ljust(80)
    assert Cards(text).get("MP_SENSOR_EDGE") == 17
    assert Cards(text).get("NAXIS") == 2
    assert "COMMENT" not in Cards(text)


@pytest.mark.parametrize("text", ["'two'", "T", "2.5", "-1", "1000", "", "nonsense"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(BadStructureError, match="KEY"):
        Cards(f"KEY     = {text}".ljust(80)).integer("KEY", most=999)


def test_columns_wider_than_numpy_counts() -> None:
    """The sum of their widths overflows to that of the row; numpy makes offsets outside the row of it."""
    forms = [*["999999999A"] * 2, "1PB", *["999999999A"] * 2, f"{2**32 - 4 * 999999999}A"]
    header = fits.Header([("NAXIS1", 8), ("TFIELDS", len(forms)), *((f"TFORM{n}", f) for n, f in enumerate(forms, 1))])
    with pytest.raises(BadStructureError, match="rows of 8 bytes, but columns of 4294967304"):
        table_dtype(Cards(header.tostring()))


def test_numbers_beyond_64_bits() -> None:
    value = Cards(f"KEY     = {'9' * 40}".ljust(80)).number("KEY")
    assert type(value) is float
    assert value == 1e40


def test_fortran_exponents() -> None:
    assert math.isclose(Cards("KEY     = 1.5D-3".ljust(80)).number("KEY"), 0.0015)


# Refusals


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere") as caught:
        open_coadd(tmp_path / "nowhere.fits")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ReadError, match="directory"):
        open_coadd(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not FITS at all", b"SIMPLE  =" + b" " * 5000, bytes(10000)])
def test_not_fits(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"x\.fits"):
        open_coadd(path)


def test_fits_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="no image plane"):
        open_coadd(save(tmp_path / "mask.fits", fits.ImageHDU(ramp(np.int32), name="MASK")))


def test_no_origin(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="LTV1"):
        open_coadd(save(tmp_path / "plain.fits", fits.ImageHDU(ramp(), name="IMAGE"), origin=False))


def test_cubes_and_float_masks(tmp_path: Path) -> None:
    image, mask = fits.ImageHDU(ramp(), name="IMAGE"), fits.ImageHDU(ramp(), name="MASK")
    cube = fits.ImageHDU(ramp()[None], name="VARIANCE")
    with open_coadd(save(tmp_path / "odd.fits", image, mask, cube)) as coadd:
        with pytest.raises(UnsupportedFormatError, match="mask plane: mask pixels of type float32"):
            coadd.read("mask")
        with pytest.raises(UnsupportedFormatError, match="variance plane: an image of 3 dimensions"):
            coadd.read("variance")


def test_planes_that_disagree(tmp_path: Path) -> None:
    image, mask = fits.ImageHDU(ramp(), name="IMAGE"), fits.ImageHDU(ramp(np.int32)[1:], name="MASK")
    with (
        open_coadd(save(tmp_path / "odd.fits", image, mask)) as coadd,
        pytest.raises(CorruptFileError, match="the image has"),
    ):
        coadd.read("mask")
