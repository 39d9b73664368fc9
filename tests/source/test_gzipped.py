"""Files that are gzipped as a whole."""

import errno
import gc
import gzip
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler

from lsstcutouts.errors import CorruptFileError, ReadError, UnsupportedFormatError, WriteError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.source import gzipped
from lsstcutouts.testing import SimulatedRepository

from ..support.afw import GRID, LINEAR, LTV, compare, planes, save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gzipped file, not called so."""
    whole = save(tmp_path / "whole.fits", planes(LTV | LINEAR, GRID))
    zipped = tmp_path / "coadd.fits"
    zipped.write_bytes(gzip.compress(whole.read_bytes(), 1))
    return zipped


def temporary_descriptors() -> int:
    links = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum("(deleted)" in os.readlink(link) for link in links if link.is_symlink())  # noqa: PTH115


def test_pixels_are_astropys(path: Path) -> None:
    with open_coadd(path, size=path.stat().st_size) as coadd, fits.open(path) as hdus:
        assert coadd.uri == str(path)
        for number, name in enumerate(("image", "mask", "variance"), 1):
            compare(coadd, name, hdus[number].data)


@pytest.mark.parametrize("name", ["dp1_repo", "dp2_repo"])
def test_files_of_both_releases(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    repo: SimulatedRepository = request.getfixturevalue(name)
    with Butler.from_config(repo.root, collections=repo.collections) as butler:
        whole = Path(butler.getURI(min(butler.query_datasets(repo.dataset_type))).ospath)
    zipped = tmp_path / "coadd.fits.gz"
    with gzip.open(zipped, "wb", 1) as stream:
        stream.write(whole.read_bytes())
    with open_coadd(zipped) as coadd, open_coadd(whole) as same:
        for plane in ("image", "mask", "variance"):
            compare(coadd, plane, same.read(plane), 5)
        assert coadd.mask_planes == same.mask_planes


def test_several_members(path: Path, tmp_path: Path) -> None:
    """What parallel compressors write."""
    content = gzip.decompress(path.read_bytes())
    parts = [gzip.compress(content[i : i + 5000], 1) for i in range(0, len(content), 5000)]
    for rest in (bytes(512), b"garbage", b"\x1f", bytes(3) + b"\x1f\x8b"):
        (tmp_path / "parts.fits.gz").write_bytes(b"".join(parts) + rest)
        with open_coadd(tmp_path / "parts.fits.gz") as coadd, open_coadd(path) as same:
            np.testing.assert_array_equal(coadd.read("mask"), same.read("mask"))


def test_many_threads(path: Path) -> None:
    with open_coadd(path) as coadd, fits.open(path) as hdus, ThreadPoolExecutor(8) as pool:
        for pixels in pool.map(lambda _: coadd.read("variance"), range(40)):
            np.testing.assert_array_equal(pixels, hdus[3].data)


def test_truncated_anywhere(path: Path) -> None:
    content = path.read_bytes()
    for length in [2, 5, 11, 30, *range(100, len(content), 997), len(content) - 9, len(content) - 8, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError, match=r"coadd\.fits: damaged or truncated gzip file"):
            open_coadd(path)


def test_damaged_anywhere(path: Path) -> None:
    content = path.read_bytes()
    for at in [2, 3, 20, *range(100, len(content), 1999), len(content) - 8, len(content) - 1]:
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"coadd\.fits"):
            open_coadd(path)


def test_a_truncated_file_that_was_gzipped_then(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.fits", planes(LTV)).read_bytes()
    (tmp_path / "cut.fits.gz").write_bytes(gzip.compress(whole[:-2881], 1))
    with open_coadd(tmp_path / "cut.fits.gz") as coadd:
        assert coadd.read("mask").any()
        with pytest.raises(CorruptFileError, match="variance plane: truncated"):
            coadd.read("variance")


def test_no_fits_inside(tmp_path: Path) -> None:
    path = tmp_path / "x.fits.gz"
    for content, error in ((b"", CorruptFileError), (b"text", CorruptFileError),
                           (gzip.compress(b"twice"), UnsupportedFormatError)):  # fmt: skip
        path.write_bytes(gzip.compress(content))
        with pytest.raises(error, match=r"x\.fits\.gz"):
            open_coadd(path)


def test_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzipped, "MAX_INFLATED_BYTES", 3 << 20)
    path = tmp_path / "bomb.fits.gz"
    path.write_bytes(gzip.compress(bytes(10 << 20), 9))
    with pytest.raises(
        UnsupportedFormatError, match=r"bomb\.fits\.gz: the gzip content is larger than the limit of 3145728 bytes"
    ):
        open_coadd(path)


def test_no_folder_for_temporary_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(WriteError, match=r"coadd\.fits cannot be decompressed into .*nowhere: .*set TMPDIR") as caught:
        open_coadd(path)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not isinstance(caught.value, ReadError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_, **__: open("/dev/full", "r+b", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(WriteError, match="set TMPDIR") as caught:
        open_coadd(path)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_is_left(path: Path, tmp_path: Path) -> None:
    gc.collect()
    before = temporary_descriptors(), len(os.listdir("/proc/self/fd")), set(os.listdir(tempfile.gettempdir()))  # noqa: PTH208
    dropped, closed = open_coadd(path), open_coadd(path)
    assert temporary_descriptors() == before[0] + 2
    assert len(os.listdir("/proc/self/fd")) == before[1] + 2  # noqa: PTH208
    closed.close()
    with pytest.raises(ReadError):
        closed.read("image")
    assert dropped.read("image").any()
    del dropped, closed
    gc.collect()
    (tmp_path / "bad.fits").write_bytes(gzip.compress(b"no FITS"))
    with pytest.raises(CorruptFileError):
        open_coadd(tmp_path / "bad.fits")
    gc.collect()
    after = temporary_descriptors(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert after == before[:2]
