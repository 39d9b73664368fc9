"""From the file's unit to nJy; the oracle is astropy."""

import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits

from lsstcutouts.errors import CorruptFileError, FluxUnitError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.testing import SimulatedRepository

from ..support.afw import LTV, Cards, image, mask, plane, planes, save


def scale_of(path: Path, unit: object = None, cards: Cards | None = None, primary: Cards | None = None) -> float:
    first = plane(image(), LTV, {} if unit is None else {"BUNIT": unit}, cards or {}, name="IMAGE")
    with open_coadd(save(path, [first, *planes(LTV)[1:]], primary)) as coadd:
        return coadd.flux_scale


@pytest.mark.parametrize(
    "unit", ["nJy", "uJy", "mJy", "Jy", "kJy", "nanoJansky", "ABflux", "erg/s/cm2/Hz", "W m-2 Hz-1"]
)
def test_flux_densities(tmp_path: Path, unit: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        expected = (1.0 * u.Unit(unit)).to_value(u.nJy)
    np.testing.assert_allclose(scale_of(tmp_path / "x.fits", unit), expected, rtol=1e-14)


@pytest.mark.parametrize("unit", ["nmgy", "nanomaggy", "nanomaggies", "NANOMAGGIES", "mgy", "maggy"])
def test_maggies(tmp_path: Path, unit: str) -> None:
    expected = (1 * u.ABflux).to_value(u.nJy) * (1e-9 if unit.lower().startswith("n") else 1)
    np.testing.assert_allclose(scale_of(tmp_path / "x.fits", unit), expected, rtol=1e-14)


def test_nanojansky_is_exactly_one(
    dp1_repo: SimulatedRepository, dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    assert scale_of(tmp_path / "x.fits", "nJy") == 1.0
    assert scale_of(tmp_path / "y.fits", " nJy ", {"FLUXMAG0": 1e12}) == 1.0
    for repo in (dp1_repo, dp2_repo):
        with open_coadd(next(repo.root.rglob("deep_coadd*.fits"))) as coadd:
            assert coadd.flux_scale == 1.0


@pytest.mark.parametrize("unit", [None, "", "  ", "adu", "ADU", "count", "counts", "ct", "electron", "DN"])
@pytest.mark.parametrize("where", ["image", "primary"])
def test_counts_with_a_zero_point(tmp_path: Path, unit: str | None, where: str) -> None:
    """DP0 and HSC have zero points of 27: a source of magnitude 27 has one count."""
    cards = {"FLUXMAG0": 10 ** (27.0 / 2.5), "HIERARCH FLUXMAG0ERR": 0.0}
    scale = scale_of(tmp_path / "x.fits", unit, **{"cards" if where == "image" else "primary": cards})
    expected = (27.0 * u.ABmag).to_value(u.nJy)
    np.testing.assert_allclose(scale, expected, rtol=1e-12)
    np.testing.assert_allclose(scale, 57.54399373371543, rtol=1e-12)


@pytest.mark.parametrize(
    ("unit", "cards"),
    [
        (None, {}),
        ("adu", {}),
        ("", {"FLUXMAG0": 0.0}),  # afw's own mark of an image that is not calibrated
        # LSST and HSC write this zero point for counts a second.
        ("adu", {"MAGZERO": 27.0, "HIERARCH MAGZERO_RMS": 0.1}),
        ("nJy2", {}),
        ("nJy**2", {}),
        ("MJy/sr", {}),
        ("mag", {}),
        ("K", {}),
        ("no unit", {}),
        ("electron/s", {"FLUXMAG0": 1e12}),
        (3, {"FLUXMAG0": 0}),
    ],
)
def test_units_that_are_none(tmp_path: Path, unit: object, cards: Cards) -> None:
    with pytest.raises(
        FluxUnitError, match=r'x\.fits: BUNIT .* cannot be converted to nJy: .*flux_unit="native"'
    ) as found:
        scale_of(tmp_path / "x.fits", unit, cards)
    if isinstance(unit, str) and unit:
        assert repr(unit) in str(found.value)


@pytest.mark.parametrize("value", [-1.0, "many", True])
def test_zero_points_that_are_damaged(tmp_path: Path, value: object) -> None:
    with pytest.raises(CorruptFileError, match="FLUXMAG0"):
        scale_of(tmp_path / "x.fits", "adu", {"FLUXMAG0": value})


# The calibration among afw's archive tables, in files since 2019


def archive(
    *, constant: bool = True, version: int = 1, mean: float = 57.5, identifier: int = 7
) -> list[fits.BinTableHDU]:
    """Return index and tables as afw lays them out (``OutputArchive.cc``, ``PhotoCalib.cc``)."""
    index = fits.BinTableHDU.from_columns(
        [
            fits.Column("id", "J", array=[3, identifier, 9]),
            fits.Column("cat.archive", "J", array=[1, 2, 1]),
            fits.Column("cat.persistable", "J", array=[0, 0, 0]),
            fits.Column("row0", "J", array=[0, 1, 1]),
            fits.Column("nrows", "J", array=[1, 1, 1]),
            fits.Column("name", "64A", array=["FilterLabel", "PhotoCalib", "FilterLabel"]),
            fits.Column("module", "64A", array=["lsst.afw.image"] * 3),
        ],
        name="ARCHIVE_INDEX",
    )
    index.header.update(EXTTYPE="ARCHIVE_INDEX", AR_CATN=0, AR_NCAT=3)
    labels = fits.BinTableHDU.from_columns([fits.Column("band", "8A", array=["g", "r"])], name="FilterLabel")
    calibration = fits.BinTableHDU.from_columns(
        [
            fits.Column("flags", "1X", array=np.array([[True], [constant]])),
            fits.Column("calibrationMean", "D", array=[1.0, mean]),
            fits.Column("calibrationErr", "D", array=[0.0, 0.0]),
            fits.Column("field", "J", array=[0, 5]),
            fits.Column("version", "J", array=[1, version]),
        ],
        name="PhotoCalib",
    )
    for number, table in enumerate((labels, calibration), 1):
        table.header.update(EXTTYPE="ARCHIVE_DATA", AR_CATN=number)
    return [index, labels, calibration]


def calibrated(path: Path, wanted: int = 7, **changes: object) -> float:
    hdus = [*planes(LTV), *archive(**changes)]  # type: ignore[arg-type]
    with open_coadd(save(path, hdus, {"AR_HDU": 5, "HIERARCH PHOTOCALIB_ID": wanted})) as coadd:
        return coadd.flux_scale


def test_the_calibration_in_the_archive(tmp_path: Path) -> None:
    assert calibrated(tmp_path / "x.fits") == 57.5


@pytest.mark.parametrize(
    "changes", [{"constant": False}, {"version": 0}, {"mean": 0.0}, {"mean": np.nan}, {"identifier": 8}, {"wanted": 0}]
)
def test_calibrations_that_are_none(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(FluxUnitError, match="no zero point"):
        calibrated(tmp_path / "x.fits", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "column", "form", "values"),
    [
        (4, "id", "2J", [[7, 7]] * 3),
        (4, "cat.archive", "2A", ["a", "b", "c"]),
        (4, "row0", "D", [np.inf] * 3),
        (6, "flags", "K", [0, 2**40]),  # bytes() of a number is as many zeros
        (6, "calibrationMean", "2D", [[1.0, 2.0]] * 2),
        (6, "version", "8A", ["x", "y"]),
    ],
)
def test_columns_of_other_types(tmp_path: Path, number: int, column: str, form: str, values: list[object]) -> None:
    hdus = [*planes(LTV), *archive()]
    table = hdus[number - 1]
    columns = [fits.Column(column, form, array=values) if c.name == column else c for c in table.columns]
    hdus[number - 1] = fits.BinTableHDU.from_columns(columns, name=table.name)
    hdus[3].header["AR_NCAT"] = 3
    path = save(tmp_path / "x.fits", hdus, {"AR_HDU": 5, "HIERARCH PHOTOCALIB_ID": 7})
    with open_coadd(path) as coadd, pytest.raises(CorruptFileError, match=f"column {column.upper()} has cells of type"):
        _ = coadd.flux_scale


def test_the_scale_is_of_the_image_whatever_the_mask_says(tmp_path: Path) -> None:
    hdus = [plane(image(), LTV, {"BUNIT": "uJy"}, name="IMAGE"), plane(mask(), LTV, {"BUNIT": "Jy"}, name="MASK")]
    with open_coadd(save(tmp_path / "x.fits", hdus)) as coadd:
        np.testing.assert_allclose(coadd.flux_scale, 1000.0, rtol=1e-14)
