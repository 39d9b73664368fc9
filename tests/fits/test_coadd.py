"""Coadd files as a whole: simulated repositories of both releases, old files, damaged files."""

import gc
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from lsst.daf.butler import Butler, DatasetRef
from lsst.images import Box as ImagesBox
from lsst.images import MaskedImage
from lsst.resources import ResourcePath

from lsstcutouts.errors import ConfigurationError, CorruptFileError, MissingFileError, PlaneError, ReadError
from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.fits.layout import PlaneLayout
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.byte_source import RemoteSource, Streams
from lsstcutouts.testing import SimulatedRepository

from ..support.examples import examples

PLANES = ("image", "mask", "variance")


@pytest.fixture(scope="module")
def dp2_files(dp2_repo: SimulatedRepository) -> Iterator[list[tuple[Butler, DatasetRef, Path]]]:
    with Butler.from_config(dp2_repo.root, collections=dp2_repo.collections) as butler:
        yield located(butler, dp2_repo)


@pytest.fixture(scope="module")
def dp1_files(dp1_repo: SimulatedRepository) -> Iterator[list[tuple[Butler, DatasetRef, Path]]]:
    with Butler.from_config(dp1_repo.root, collections=dp1_repo.collections) as butler:
        yield located(butler, dp1_repo)


def located(butler: Butler, repo: SimulatedRepository) -> list[tuple[Butler, DatasetRef, Path]]:
    refs = sorted(butler.query_datasets(repo.dataset_type, limit=None))
    return [(butler, ref, Path(butler.getURI(ref).ospath)) for ref in refs]


def random_boxes(bbox: Box) -> st.SearchStrategy[Box]:
    def ordered(ends: tuple[int, int, int, int]) -> Box:
        (y0, y1), (x0, x1) = sorted(ends[:2]), sorted(ends[2:])
        return Box(y0, y1 + 1, x0, x1 + 1)

    y, x = st.integers(bbox.y0, bbox.y1 - 1), st.integers(bbox.x0, bbox.x1 - 1)
    return st.tuples(y, y, x, x).map(ordered)


@examples(60)
@given(data=st.data())
def test_dp2_pixels_are_the_butlers(dp2_files: list[tuple[Butler, DatasetRef, Path]], data: st.DataObject) -> None:
    butler, ref, path = data.draw(st.sampled_from(dp2_files))
    with open_coadd(path) as coadd:
        box = data.draw(random_boxes(coadd.bbox))
        plane = data.draw(st.sampled_from(["image", "variance"]))
        expected = butler.get(
            ref.makeComponentRef(plane), parameters={"bbox": ImagesBox.factory[box.y0 : box.y1, box.x0 : box.x1]}
        )
        np.testing.assert_array_equal(coadd.read(plane, box), expected.array)


def test_dp2_masks_are_the_butlers_by_name(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    for butler, ref, path in dp2_files:
        expected = butler.get(ref.makeComponentRef("mask"))
        with open_coadd(path) as coadd:
            assert coadd.planes == PLANES
            assert set(coadd.mask_planes) == {plane.name for plane in expected.schema if plane is not None}
            pixels = coadd.read("mask")
            for name, bit in coadd.mask_planes.items():
                np.testing.assert_array_equal((pixels >> bit) & 1 != 0, expected.get(name), err_msg=name)
            assert (coadd.unit("image"), coadd.unit("variance"), coadd.unit("mask")) == ("nJy", "nJy2", "")


def test_dp2_geometry_is_the_butlers(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    for butler, ref, path in dp2_files:
        bbox = butler.get(ref.makeComponentRef("bbox"))
        with open_coadd(path) as coadd:
            assert coadd.bbox == Box(bbox.y.start, bbox.y.stop, bbox.x.start, bbox.x.stop)
            sky = butler.get(ref.makeComponentRef("sky_projection"))
            y, x = np.array([coadd.bbox.y0, 5, coadd.bbox.y1], float), np.array([coadd.bbox.x0, 700, 3], float)
            expected = sky.pixel_to_sky(x=x, y=y)
            ra, dec = coadd.projection.pixel_to_sky(y, x)
            np.testing.assert_allclose(ra, expected.ra.deg, rtol=0, atol=1e-10)
            np.testing.assert_allclose(dec, expected.dec.deg, rtol=0, atol=1e-10)


def test_dp1_is_what_lsst_images_reads(dp1_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    for _, _, path in dp1_files:
        expected = MaskedImage.read_legacy(str(path))
        with open_coadd(path) as coadd:
            assert coadd.planes == PLANES
            bbox = expected.bbox
            assert coadd.bbox == Box(bbox.y.start, bbox.y.stop, bbox.x.start, bbox.x.stop)
            np.testing.assert_array_equal(coadd.read("image"), expected.image.array)
            np.testing.assert_array_equal(coadd.read("variance"), expected.variance.array)
            with fits.open(path) as hdus:
                cards = {k[3:]: v for k, v in hdus["MASK"].header.items() if k.startswith("MP_")}
                np.testing.assert_array_equal(coadd.read("mask"), hdus["MASK"].data)
            assert coadd.mask_planes == cards
            pixels = coadd.read("mask")
            names = {plane.name for plane in expected.mask.schema if plane is not None}
            assert names & set(cards)
            for name in names & set(cards):
                np.testing.assert_array_equal((pixels >> cards[name]) & 1 != 0, expected.mask.get(name), err_msg=name)


@examples(40)
@given(data=st.data())
def test_dp1_pixels_are_astropys(dp1_files: list[tuple[Butler, DatasetRef, Path]], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(dp1_files))[2]
    plane = data.draw(st.sampled_from(PLANES))
    with open_coadd(path) as coadd, fits.open(path) as hdus:
        box = data.draw(random_boxes(coadd.bbox))
        expected = hdus[plane.upper()].section[box.slices(coadd.bbox.start)]
        np.testing.assert_array_equal(coadd.read(plane, box), expected)


@pytest.mark.parametrize("release", ["dp1_files", "dp2_files"])
def test_wcs_over_tract_pixels(release: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(release)[0][2]
    with open_coadd(path) as coadd, fits.open(path) as hdus:
        array_wcs = WCS(hdus["IMAGE"].header)
        y, x = np.array([0.0, 17.25, 40.0]), np.array([3.0, 50.5, 99.0])
        expected = array_wcs.pixel_to_world_values(x, y)
        inside = coadd.wcs.pixel_to_world_values(x + coadd.bbox.x0, y + coadd.bbox.y0)
        np.testing.assert_allclose(inside, expected, rtol=0, atol=1e-11)
        projected = coadd.projection.pixel_to_sky(y + coadd.bbox.y0, x + coadd.bbox.x0)
        np.testing.assert_allclose(projected, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("release", ["dp1_files", "dp2_files"])
def test_units_are_whole_tiles_of_bounded_size(release: str, request: pytest.FixtureRequest) -> None:
    with open_coadd(request.getfixturevalue(release)[0][2]) as coadd:
        for plane in PLANES:
            layout = coadd.layout(plane)
            assert layout.shape == coadd.bbox.shape
            assert layout.unit_shape.y % layout.tile_shape.y == 0 or layout.unit_grid.y == 1
            assert layout.unit_shape.x % layout.tile_shape.x == 0 or layout.unit_grid.x == 1
            assert 4 * layout.unit_shape.y * layout.unit_shape.x <= 250_000
            whole, units = coadd.read(plane), coadd.read_units(plane, range(layout.units))
            for unit, pixels in enumerate(units):
                np.testing.assert_array_equal(pixels, whole[layout.unit_box(unit).slices()])
            assert layout.units_under(Box(0, 1, 0, 1)) == [0]
            assert layout.units_under(Box.from_start(YX(0, 0), layout.shape)) == list(range(layout.units))


def test_layouts_pickle(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    with open_coadd(dp2_files[0][2]) as coadd:
        layout = coadd.layout("image")
        copy: PlaneLayout = pickle.loads(pickle.dumps(layout))
        assert copy.unit_shape == layout.unit_shape
        np.testing.assert_array_equal(copy.offsets, layout.offsets)
        assert copy.compressed_bytes == int(layout.sizes.sum()) > 0


def test_threads_share_a_coadd(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    with open_coadd(dp2_files[0][2]) as coadd:
        units = list(range(coadd.layout("image").units)) * 5
        expected = coadd.read_units("image", units)
        with ThreadPoolExecutor(8) as pool:
            got = pool.map(lambda u: coadd.read_units("image", [u])[0], units)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)


# Refusals


@pytest.mark.parametrize("release", ["dp1_files", "dp2_files"])
def test_truncated_files_are_found_before_a_pixel_is_read(
    release: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    whole = request.getfixturevalue(release)[0][2].read_bytes()
    path = tmp_path / "cut.fits"
    with open_coadd(request.getfixturevalue(release)[0][2]) as coadd:
        end = int((coadd.layout("image").offsets + coadd.layout("image").sizes).max())
    for length in (1, 2879, 2881, 6000, end // 2, end - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match=r"cut\.fits"):
            open_coadd(path)
    path.write_bytes(whole[:-3000])
    with pytest.raises(CorruptFileError, match=rf"{len(whole) - 3000} bytes, but the repository recorded {len(whole)}"):
        open_coadd(path, size=len(whole))
    with open_coadd(path) as coadd, open_coadd(request.getfixturevalue(release)[0][2]) as same:
        for plane in ("image", "mask", "variance"):
            np.testing.assert_array_equal(coadd.read(plane), same.read(plane))


def test_the_recorded_size(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    path = dp2_files[0][2]
    for size in (None, -1, path.stat().st_size):
        open_coadd(path, size=size).close()
    with pytest.raises(CorruptFileError, match="recorded 17"):
        open_coadd(path, size=17)


def test_boxes_and_units_outside(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    with open_coadd(dp2_files[0][2]) as coadd:
        for box in (coadd.bbox._replace(y0=coadd.bbox.y0 - 1), Box(5, 5, 6, 7), coadd.bbox.shifted(YX(0, 1))):
            with pytest.raises(ConfigurationError, match="empty or not inside"):
                coadd.read("image", box)
        for unit in (-1, coadd.layout("image").units):
            with pytest.raises(ConfigurationError, match="unit"):
                coadd.read_units("image", [0, unit])
        with pytest.raises(PlaneError, match="image, mask, variance"):
            coadd.read("noise")


@examples(150)
@given(data=st.data())
def test_damaged_headers_and_tables_raise_only_our_errors(
    dp1_files: list[tuple[Butler, DatasetRef, Path]],
    dp2_files: list[tuple[Butler, DatasetRef, Path]],
    tmp_path: Path,
    data: st.DataObject,
) -> None:
    source = data.draw(st.sampled_from([dp1_files[0][2], dp2_files[0][2]]))
    content = bytearray(source.read_bytes())
    with open_coadd(source) as coadd:
        first = int(coadd.layout("image").offsets.min())
    # Headers and tile table of the image, or the index at the end.
    low, high = data.draw(st.sampled_from([(0, first), (len(content) - 9000, len(content))]))
    for at in data.draw(st.lists(st.integers(low, high - 1), min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255) | st.sampled_from(list(b"0123456789-' ")))
    path = tmp_path / "damaged.fits"
    path.write_bytes(content)
    try:
        with open_coadd(path) as coadd:
            if coadd.bbox.area < 10**7:
                coadd.read("image")
                coadd.read_units("mask", [0])
                assert isinstance(coadd.mask_planes, dict)
    except (ReadError, PlaneError):
        pass


# Handles


def open_descriptors(path: Path) -> int:
    """Return how many open descriptors this process has of a file: those of other files may close at any time."""
    return sum(link.resolve() == path.resolve() for link in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_no_descriptor_is_left_open(dp2_files: list[tuple[Butler, DatasetRef, Path]], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.fits", tmp_path / "bad.fits"
    good.write_bytes(dp2_files[0][2].read_bytes())
    kept = [open_coadd(good) for _ in range(5)]
    assert open_descriptors(good) == 5
    del kept
    gc.collect()
    assert open_descriptors(good) == 0
    bad.write_bytes(b"SIMPLE  =" + bytes(3000))
    with pytest.raises(CorruptFileError):
        open_coadd(bad)
    assert open_descriptors(bad) == 0


def test_a_closed_coadd_says_so(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    coadd: Coadd = open_coadd(dp2_files[0][2])
    coadd.layout("image")
    coadd.close()
    coadd.close()
    with pytest.raises(ReadError):
        coadd.read("image")


@pytest.mark.parametrize("scheme", ["file", "object"])
def test_uris(dp2_files: list[tuple[Butler, DatasetRef, Path]], scheme: str) -> None:
    path = dp2_files[0][2]
    uri = path.as_uri() if scheme == "file" else ResourcePath(path.as_uri())
    with open_coadd(uri) as coadd, open_coadd(str(path)) as same:
        np.testing.assert_array_equal(coadd.read("image"), same.read("image"))


def test_remote_files(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    """Any scheme without local files goes through one handle of lsst.resources."""
    path = dp2_files[0][2]
    with pytest.raises(MissingFileError):
        RemoteSource(ResourcePath("file:///nowhere/coadd.fits"))
    source = RemoteSource(ResourcePath(path.as_uri()))
    with Coadd(source) as coadd, open_coadd(path) as same, ThreadPoolExecutor(4) as pool:
        units = list(range(coadd.layout("image").units))
        for a, b in zip(
            pool.map(lambda u: coadd.read_units("image", [u])[0], units), same.read_units("image", units), strict=True
        ):
            np.testing.assert_array_equal(a, b)


class CountingSource:
    """Bytes in memory that count how they are read."""

    def __init__(self, data: bytes, gap: int) -> None:
        self.uri, self.size, self.stamp, self.gap, self.data = "counted", len(data), (len(data),), gap, data
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None:
        pass


@given(
    extents=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 100)), max_size=20),
    gap=st.integers(0, 200),
)
def test_neighbouring_extents_are_one_read(extents: list[tuple[int, int]], gap: int) -> None:
    data = bytes(np.random.default_rng(1).integers(0, 256, 1000, np.uint8))
    source = CountingSource(data, gap)
    offsets, sizes = np.array(extents, np.int64).reshape(-1, 2).T
    views = Streams(source, offsets, sizes, b"\xff" * 7).read().views()
    assert [bytes(v) for v in views] == [data[o : o + n] for o, n in extents]
    for (a, n), (b, _) in zip(source.reads, source.reads[1:], strict=False):
        assert b - (a + n) > gap


def test_the_image_of_a_dp2_file_is_found_without_the_index(dp2_files: list[tuple[Butler, DatasetRef, Path]]) -> None:
    source = CountingSource(dp2_files[0][2].read_bytes(), 0)
    coadd = Coadd(source)
    coadd.layout("image")
    assert len(source.reads) == 2
    coadd.layout("variance")
    assert len(source.reads) == 4
    assert sum(length for _, length in source.reads) < 100_000
