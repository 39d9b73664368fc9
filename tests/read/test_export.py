"""WCS and FITS files of cutouts, read back by astropy and fitsio; the WCS against each source file's own."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fitsio
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler

from lsstcutouts import ReadOptions, __version__
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, WriteError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.read.export import batch_wcs, write_fits
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.testing import SimulatedRepository

NAMES = ("NO_DATA", "DETECTED", "SAT")
SIZE = (33, 40)
BANDS = "gri"


@pytest.fixture(scope="module", params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def fetched(repo: SimulatedRepository) -> tuple[dict, CutoutPlan]:
    """Fourteen targets, every plane."""
    planes = ["image", "variance", "ivar", "mask", "valid"] + ["psf"] * (repo.release == "dp2")
    with LsstDataFetcher(
        repo.root,
        collections=repo.collections,
        bands=BANDS,
        size=SIZE,
        planes=planes,
        cache_bytes="50 MB",
        read=ReadOptions(mask_planes=NAMES),
    ) as fetcher:
        plan = fetcher.plan(Catalog.from_any(repo.truth)[np.arange(14)])
        return fetcher.fetch_plan(plan), plan


def source_wcs(path: str) -> tuple[WCS, tuple[int, int]]:
    """Return a file's own WCS as astropy reads it, over its own array, and the tract pixel of the array's first."""
    with fits.open(path) as hdus:
        header = hdus["IMAGE"].header
        start = int(header["CRVAL2A"]), int(header["CRVAL1A"])
        return WCS(header), start


def test_the_wcs_is_the_source_files_own(fetched) -> None:
    batch, plan = fetched
    for i in range(len(plan)):
        wcs = batch_wcs(batch, i)
        assert wcs.array_shape == SIZE
        y, x = np.random.default_rng(i).uniform(-1, 41, (2, 20))
        for patch in [int(plan.primary[i]), *plan.others_of(i)]:
            for file in plan.patches.files[patch].tolist():
                if file < 0:
                    continue
                own, start = source_wcs(plan.files.uri[file])
                there = own.all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
                np.testing.assert_allclose(there[0] + start[1], x + plan.yx0[i, 1], rtol=0, atol=1e-6)
                np.testing.assert_allclose(there[1] + start[0], y + plan.yx0[i, 0], rtol=0, atol=1e-6)
        middle = (np.array(SIZE) - 1) / 2 + batch["offset"][i]
        target = wcs.all_world2pix(plan.ra[i], plan.dec[i], 0)
        np.testing.assert_allclose(target[::-1], middle, rtol=0, atol=1e-4)


@pytest.mark.parametrize("repo", ["dp2_repo"], indirect=True)  # DP1's files have no projection of `lsst.images`
def test_the_wcs_is_that_of_lsst_images(fetched, repo: SimulatedRepository) -> None:
    batch, plan = fetched
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        for i in range(0, len(plan), 10):
            ref = butler.find_dataset(
                "deep_coadd", tract=plan.tract[i], patch=plan.patch[i], band="r", skymap=repo.skymap
            )
            projection = butler.get(ref).sky_projection
            y, x = np.random.default_rng(i).uniform(0, 40, (2, 10))
            ra, dec = batch_wcs(batch, i).all_pix2world(x, y, 0)
            pixel = projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg", frame="icrs"))
            np.testing.assert_allclose(pixel.x, x + plan.yx0[i, 1], rtol=0, atol=1e-6)
            np.testing.assert_allclose(pixel.y, y + plan.yx0[i, 0], rtol=0, atol=1e-6)


def test_rows_without_a_wcs(fetched) -> None:
    batch, _ = fetched
    assert batch_wcs(batch, -1).to_header() == batch_wcs(batch, len(batch["ra"]) - 1).to_header()
    with pytest.raises(ConfigurationError, match="row 99 is not in this batch of"):
        batch_wcs(batch, 99)
    with pytest.raises(ConfigurationError, match="no 'wcs'"):
        batch_wcs({"image": batch["image"]}, 0)
    with pytest.raises(ConfigurationError, match="no file of this target"):
        batch_wcs({**batch, "wcs": np.zeros_like(batch["wcs"])}, 0)
    with pytest.raises(ConfigurationError, match="no plane with pixels"):
        batch_wcs({"wcs": batch["wcs"]}, 0)


UNITS = {"image": "nJy", "variance": "nJy**2", "ivar": "nJy**-2"}


def test_files_read_back_equal(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    paths = write_fits(batch, tmp_path / "new" / "folder", plan, mask_planes=NAMES)
    assert len(paths) == len(plan)
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    for i, path in enumerate(paths):
        assert path.name == f"cutout_{plan.object_id[i]}_{plan.tract[i]}_{plan.patch[i]}.fits"
        with fits.open(path) as hdus, fitsio.FITS(path) as other:
            hdus.verify("exception")
            for b, band in enumerate(BANDS):
                for plane in ("image", "variance", "ivar", "mask", "valid"):
                    name, want = f"{plane}_{band}".upper(), batch[plane][i, b]
                    np.testing.assert_array_equal(hdus[name].data, want)
                    np.testing.assert_array_equal(other[name].read(), want)
                    assert hdus[name].data.dtype.newbyteorder("=") == (np.uint8 if plane == "valid" else want.dtype)
                    assert hdus[name].header.get("BUNIT") == UNITS.get(plane)
                    assert other[name].read_header()["BAND"] == band
                    assert hdus[name].header["PRESENT"] == batch["band_present"][i, b]
                has_psf = "psf" in batch and batch["psf_present"][i, b]
                assert (f"PSF_{band.upper()}" in hdus) == has_psf
                if has_psf:
                    np.testing.assert_array_equal(hdus[f"PSF_{band}"].data, batch["psf"][i, b])
                    np.testing.assert_array_equal(other[f"PSF_{band}".upper()].read(), batch["psf"][i, b])


def test_every_plane_says_where_it_is(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    for i, path in enumerate(write_fits(batch, tmp_path, plan, mask_planes=NAMES)):
        y0, x0 = plan.yx0[i].tolist()
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                if hdu.name.startswith("PSF"):
                    continue
                want = batch_wcs(batch, i)
                y, x = np.random.default_rng(i).uniform(0, 40, (2, 5))
                np.testing.assert_allclose(
                    WCS(hdu.header).all_pix2world(x, y, 0), want.all_pix2world(x, y, 0), rtol=0, atol=1e-12
                )
                np.testing.assert_array_equal(WCS(hdu.header, key="A").all_pix2world([[0, 0]], 0), [[x0, y0]])
                assert (hdu.header["LTV1"], hdu.header["LTV2"]) == (-x0, -y0)
            mask = hdus["MASK_R"].header
            assert {k[3:]: v for k, v in mask.items() if k.startswith("MP_")} == {n: b for b, n in enumerate(NAMES)}
        assert fitsio.read_header(path, ext="MASK_R")["MP_NO_DATA"] == 0


def test_one_plane_is_a_coadd_to_this_package(fetched, tmp_path: Path) -> None:
    """Renamed as in a file of one band, a cutout is opened like any coadd and knows its pixels of the tract."""
    batch, plan = fetched
    path = write_fits(batch, tmp_path, plan, mask_planes=NAMES)[0]
    with fits.open(path) as hdus:
        alone = [hdus[0], *(hdus[f"{p}_R"] for p in ("image", "mask", "variance"))]
        for hdu, name in zip(alone[1:], ("IMAGE", "MASK", "VARIANCE"), strict=True):
            hdu.name = name
        fits.HDUList(alone).writeto(tmp_path / "one.fits")
    with open_coadd(tmp_path / "one.fits") as coadd:
        assert (coadd.bbox.start, coadd.bbox.shape) == (tuple(plan.yx0[0].tolist()), SIZE)
        assert coadd.mask_planes == {n: b for b, n in enumerate(NAMES)}
        assert coadd.unit("image") == "nJy"
        np.testing.assert_array_equal(coadd.read("image"), batch["image"][0, 1])
        np.testing.assert_array_equal(coadd.read("mask"), batch["mask"][0, 1])


def test_the_first_header_tells_target_and_provenance(fetched, repo: SimulatedRepository, tmp_path: Path) -> None:
    batch, plan = fetched
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        refs = butler.query_datasets("deep_coadd", limit=None)
        place = {str(r.id): (r.dataId["tract"], r.dataId["patch"], r.dataId["band"]) for r in refs}
    several = 0
    for i, path in enumerate(write_fits(batch, tmp_path, plan, mask_planes=NAMES)):
        header = fits.getheader(path)
        assert header["CREATOR"] == f"lsstcutouts {__version__}"
        assert header["OBJECTID"] == plan.object_id[i]
        # Headers hold sixteen digits.
        np.testing.assert_allclose([header["RA"], header["DEC"]], [plan.ra[i], plan.dec[i]], rtol=3e-15)
        np.testing.assert_allclose([header["OFFSETY"], header["OFFSETX"]], batch["offset"][i], rtol=3e-15)
        assert (header["TRACT"], header["PATCH"]) == (plan.tract[i], plan.patch[i])
        assert (header["Y0"], header["X0"]) == tuple(plan.yx0[i])
        assert (header["REPO"], header["COLLECT"]) == (str(repo.root), repo.collections)
        assert (header["DSTYPE"], header["SKYMAP"], header["BANDS"]) == ("deep_coadd", repo.skymap, "g,r,i")
        assert header["MASKPLNS"] == ",".join(NAMES)
        for b, band in enumerate(BANDS):
            assert header[f"BAND{b + 1}"] == band
            assert header[f"PRES{b + 1}"] == batch["band_present"][i, b]
            assert header[f"QUAL{b + 1}"] == batch["quality"][i, b]
            ids = [v for k, v in header.items() if k.startswith(f"DSID{b + 1}_")]
            under = set()
            for key in plan.patches.files[[int(plan.primary[i]), *plan.others_of(i)], b].tolist():
                if key < 0:
                    continue
                with open_coadd(plan.files.uri[key]) as coadd:
                    y0, x0 = plan.yx0[i].tolist()
                    if (
                        coadd.bbox.y0 < y0 + SIZE[0]
                        and y0 < coadd.bbox.y1
                        and coadd.bbox.x0 < x0 + SIZE[1]
                        and x0 < coadd.bbox.x1
                    ):
                        under.add(plan.files.dataset_id[key])
            assert set(ids) == under
            assert all(place[one][::2] == (plan.tract[i], band) for one in ids)
            if ids and place[ids[0]][1] != plan.patch[i]:
                assert plan.patches.files[plan.primary[i], b] < 0  # the target's own patch first, where it has a file
            several += len(ids) > 1
    assert several


def test_torch_batches_and_odd_names(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    odd = CutoutPlan(**{**plan.__dict__, "repo": "/data/höhe/" + "long/" * 40})
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in batch.items() if not isinstance(v, list)}
    one = write_fits(batch, tmp_path / "numpy", odd, mask_planes=NAMES)
    other = write_fits(tensors, tmp_path / "torch", odd, mask_planes=NAMES)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]
    assert fits.getheader(one[0])["REPO"] == "/data/h\\xf6he/" + "long/" * 40
    np.testing.assert_array_equal(batch_wcs(tensors, 2).wcs.crpix, batch_wcs(batch, 2).wcs.crpix)
    with pytest.raises(ConfigurationError, match="move the batch to the CPU"):
        write_fits({**tensors, "image": tensors["image"].clone().requires_grad_()}, tmp_path, odd, mask_planes=NAMES)


def test_what_is_not_written(fetched, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch, plan = fetched
    rows = np.array([0, 1, 1, 2, 3])
    some = {k: np.asarray(v)[rows].copy() for k, v in batch.items()}
    some["is_padding"][3] = True
    for name in ("tract", "patch"):
        some[name][4] = -1  # as the fetcher gives positions outside the coverage
    some["wcs"][4] = 0
    paths = write_fits(some, tmp_path, plan, mask_planes=NAMES)
    assert [int(p.name.split("_")[1]) for p in paths] == plan.object_id[:2].tolist()
    assert "1 of 5 rows are outside the coverage" in caplog.text


def test_a_target_whose_files_were_lost_has_the_tracts_wcs(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    paths = write_fits({**batch, "wcs": np.zeros_like(batch["wcs"])}, tmp_path, plan, mask_planes=NAMES)
    wcs = WCS(fits.getheader(paths[3], "IMAGE_G"))
    np.testing.assert_allclose(
        wcs.all_pix2world([[5, 6]], 0), batch_wcs(batch, 3).all_pix2world([[5, 6]], 0), rtol=0, atol=1e-9
    )


def test_only_what_the_batch_holds(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    plain = {k: v for k, v in batch.items() if k not in {"variance", "ivar", "mask", "valid", "psf", "quality"}}
    path = write_fits(plain, tmp_path, plan, flux_unit="adu")[0]
    with fits.open(path) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "IMAGE_G", "IMAGE_R", "IMAGE_I"]
        assert hdus["IMAGE_G"].header["BUNIT"] == "adu"
        assert "QUAL1" not in hdus[0].header


def test_bands_that_differ_in_case_alone(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    path = write_fits(batch, tmp_path, CutoutPlan(**{**plan.__dict__, "bands": ("y", "Y", "i")}), mask_planes=NAMES)[0]
    np.testing.assert_array_equal(fits.getdata(path, "IMAGE_Y"), batch["image"][0, 0])
    np.testing.assert_array_equal(fits.getdata(path, ("IMAGE_Y", 2)), batch["image"][0, 1])
    np.testing.assert_array_equal(fitsio.read(path, ext="IMAGE_I"), batch["image"][0, 2])
    assert [fits.getheader(path, ("MASK_Y", version))["BAND"] for version in (1, 2)] == ["y", "Y"]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {}, "mask_planes"),
        ({}, {"mask_planes": "SAT"}, "mask_planes"),
        ({}, {"mask_planes": NAMES[:1]}, "more bits than the 1 names of mask_planes"),
        ({"object_id": lambda v: v + 10**6}, {"mask_planes": NAMES}, "is not in the plan"),
        ({"yx0": lambda v: v + 1}, {"mask_planes": NAMES}, "has another box"),
        ({"band_present": lambda v: v[:, :2]}, {"mask_planes": NAMES}, "2 bands"),
        ({"is_padding": None}, {"mask_planes": NAMES}, "has no is_padding"),
    ],
)
def test_batches_that_do_not_fit(fetched, tmp_path: Path, change, options, words: str) -> None:
    batch, plan = fetched
    changed = {k: change[k](v) if change.get(k) else v for k, v in batch.items() if change.get(k, 1) is not None}
    with pytest.raises(ConfigurationError, match=words):
        write_fits(changed, tmp_path / "none", plan, **options)
    assert not (tmp_path / "none").exists()


def test_files_that_are_there_stay(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    first = write_fits(batch, tmp_path, plan, mask_planes=NAMES)
    before = first[-1].read_bytes()
    with pytest.raises(WriteError, match=r"exists, as do 13 more.*overwrite=True"):
        write_fits(batch, tmp_path, plan, mask_planes=NAMES)
    first[-1].write_bytes(b"old")
    assert write_fits(batch, tmp_path, plan, mask_planes=NAMES, overwrite=True) == first
    assert first[-1].read_bytes() == before


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    with files_of_at_most(20_000), pytest.raises(WriteError, match=r"cutout_.*\.fits.* cannot be written: ") as caught:
        write_fits(batch, tmp_path, plan, mask_planes=NAMES)
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_survives_a_full_disk(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    one = {k: np.asarray(v)[:1] for k, v in batch.items()}
    (path,) = write_fits(one, tmp_path, plan, mask_planes=NAMES)
    before = path.read_bytes()
    with files_of_at_most(20_000), pytest.raises(WriteError):
        write_fits(one, tmp_path, plan, mask_planes=NAMES, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"the folder .* cannot be created"):
        write_fits(batch, tmp_path / "file" / "below", plan, mask_planes=NAMES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(fetched, tmp_path: Path) -> None:
    batch, plan = fetched
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        write_fits(batch, tmp_path, plan, mask_planes=NAMES)
