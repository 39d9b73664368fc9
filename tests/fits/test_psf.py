"""Point-spread functions of cell coadds, against `lsst.images`' own."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import astropy.units as u
import lsst.images as li
import lsst.images.fits
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.daf.butler import Butler
from lsst.images.cells import CellCoadd, CellGrid, CellGridBounds, CellIJ, CellPointSpreadFunction
from lsst.images.fits import FitsCompressionOptions, FitsQuantizationOptions
from lsst.images.serialization import read_archive

from lsstcutouts.errors import ConfigurationError, CorruptFileError, PlaneError, UnsupportedFormatError
from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.fits.psf import PsfGrid
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.byte_source import LocalSource
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.repositories import simulated_once

type Tree = dict[str, Any]


@pytest.fixture(scope="module")
def lossless_repo() -> SimulatedRepository:
    """One patch of 5 x 7 cells of 47 x 30 pixels in three bands, one of them with a missing cell, without loss."""
    config = SimulationConfig(
        release="dp2", cells=(3, 5), cell=(47, 30), grid=(2, 2), patches=[3], bands="ugr", targets=1, seed=3,
        compression="lossless", missing=None,
    )  # fmt: skip
    return simulated_once(config)


def coadds(repo: SimulatedRepository) -> Iterator[tuple[Path, CellCoadd]]:
    with Butler.from_config(str(repo.root), collections=repo.collections) as butler:
        for ref in butler.query_datasets("deep_coadd", limit=None):
            yield Path(butler.getURI(ref).ospath), butler.get(ref)


def theirs(psf: CellPointSpreadFunction, y: float, x: float) -> np.ndarray | None:
    """Return what `lsst.images` says; None where it says that there is no PSF."""
    try:
        return psf.compute_kernel_image(y=y, x=x).array
    except li.BoundsError:
        return None


def positions(grid: PsfGrid, rng: np.random.Generator, count: int) -> Iterator[tuple[float, float]]:
    """Yield positions of all kinds: anywhere in and around the cells, between pixels, on cells' borders."""
    box, cell = grid.bbox, grid.cell_shape
    for _ in range(count):
        y, x = rng.uniform(box.y0 - 3, box.y1 + 3), rng.uniform(box.x0 - 3, box.x1 + 3)
        yield y, x
        yield round(2 * y) / 2, round(2 * x) / 2
        row, column = rng.integers(grid.grid.y + 1), rng.integers(grid.grid.x + 1)
        # Halves round to the even pixel: at odd borders into one cell, at even ones into the other.
        around = rng.choice([-0.5, -0.5 - 1e-9, -0.5 + 1e-9, 0.0, -1.0, 0.5], 2).tolist()
        yield float(box.y0 + row * cell.y) + around[0], float(box.x0 + column * cell.x) + around[1]
    for number in grid.missing:
        row, column = divmod(number, grid.grid.x)
        yield box.y0 + row * cell.y, box.x0 + column * cell.x
        yield box.y0 + (row + 0.5) * cell.y, box.x0 + (column + 0.5) * cell.x


def compare(path: Path, psf: CellPointSpreadFunction, count: int, seed: int) -> tuple[int, int]:
    """Compare the kernels at random positions; return how many there were and at how many there was no PSF."""
    with open_coadd(path) as coadd:
        grid = coadd.psf
        where = list(positions(grid, np.random.default_rng(seed), count))
        cells = [grid.cell_at(round(y), round(x)) for y, x in where]
        kernels = iter(coadd.read_psf([cell for cell in cells if cell >= 0]))
        for cell, (y, x) in zip(cells, where, strict=True):
            expected = theirs(psf, y, x)
            if expected is None:
                assert cell == -1, (y, x)
                continue
            kernel = next(kernels)
            assert kernel.dtype == np.float64
            assert kernel.shape == grid.kernel_shape
            np.testing.assert_array_equal(kernel, expected, strict=True)
            assert np.isfinite(kernel).all()
    return len(where), cells.count(-1)


@pytest.mark.parametrize("name", ["dp2_repo", "lossless_repo"])
def test_kernels_are_those_of_lsst_images(name: str, request: pytest.FixtureRequest) -> None:
    repo: SimulatedRepository = request.getfixturevalue(name)
    compared = nothing = missing = 0
    for seed, (path, coadd) in enumerate(coadds(repo)):
        both = compare(path, coadd.psf, 40, seed)
        compared, nothing, missing = compared + both[0], nothing + both[1], missing + len(coadd.psf.bounds.missing)
    assert compared > 300
    assert nothing > 20
    assert missing > 0


def test_halves_go_to_the_even_pixel(dp2_repo: SimulatedRepository) -> None:
    path, coadd = next(coadds(dp2_repo))
    with open_coadd(path) as ours:
        grid = ours.psf
        borders = list(range(grid.bbox.x0, grid.bbox.x1, grid.cell_shape.x)[1:])
        assert {border % 2 for border in borders} == {0, 1}
        for column, border in enumerate(borders):
            for x, after in ((border - 0.5, border % 2 == 0), (np.nextafter(border - 0.5, np.inf), True)):
                assert round(x) == int(np.rint(x))
                cell = grid.cell_at(grid.bbox.y0, round(x))
                assert cell == column + after
                np.testing.assert_array_equal(ours.read_psf([cell])[0], theirs(coadd.psf, grid.bbox.y0, x))


# Every way in which the cells and their kernels can be written


@st.composite
def stored_psfs(draw: st.DrawFn) -> tuple[CellPointSpreadFunction, FitsCompressionOptions | None]:
    """Part of a grid of cells, and how its kernels are compressed."""
    cell = li.YX(y=draw(st.integers(1, 6)), x=draw(st.integers(1, 6)))
    start = li.YX(y=draw(st.integers(-20, 20)), x=draw(st.integers(-20, 20)))
    first, count, beyond = ((draw(st.integers(low, 3)), draw(st.integers(low, 3))) for low in (0, 1, 0))
    stops = [start[a] + cell[a] * (first[a] + count[a] + beyond[a]) for a in (0, 1)]
    grid = CellGrid(bbox=li.Box.factory[start.y : stops[0], start.x : stops[1]], cell_shape=cell)
    y0, x0 = (start[a] + cell[a] * first[a] for a in (0, 1))
    bbox = li.Box.factory[y0 : y0 + cell.y * count[0], x0 : x0 + cell.x * count[1]]
    cells = st.builds(CellIJ, i=st.integers(0, 7), j=st.integers(0, 7))
    bounds = CellGridBounds(grid=grid, bbox=bbox, missing=frozenset(draw(st.sets(cells, max_size=5))))
    shape = (*count, 1 + 2 * draw(st.integers(0, 4)), 1 + 2 * draw(st.integers(0, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    kernels = rng.normal(size=shape).astype(draw(st.sampled_from([np.float64, np.float32])))
    if draw(st.integers(0, 5)) == 0:
        return CellPointSpreadFunction(kernels, bounds), None
    tile = None
    if draw(st.booleans()):
        tile = tuple(draw(st.integers(1, n)) for n in shape)
    quantisation = None
    algorithm = draw(st.sampled_from(["GZIP_1", "GZIP_2"]))
    if draw(st.integers(0, 3)) == 0:
        algorithm = draw(st.sampled_from(["GZIP_1", "GZIP_2", "RICE_1"]))
        dither = draw(st.sampled_from(["NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"]))
        quantisation = FitsQuantizationOptions(dither=dither, level=16.0, seed=draw(st.integers(1, 9999)))
    options = FitsCompressionOptions(algorithm=algorithm, tile_shape=tile, quantization=quantisation)
    return CellPointSpreadFunction(kernels, bounds), options


def write(path: Path, psf: CellPointSpreadFunction, options: FitsCompressionOptions | None) -> Path:
    """Write a cell coadd with this PSF."""
    box = psf.bounds.bbox
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [53.0, -28.0], [-5e-5, 5e-5]
    coadd = CellCoadd(
        li.Image(np.zeros(box.shape, np.float32), bbox=box, unit=u.nJy),
        mask=li.Mask(0, schema=li.MaskSchema([li.MaskPlane("NO_DATA", "none")]), bbox=box),
        variance=li.Image(np.ones(box.shape, np.float32), bbox=box, unit=u.nJy**2),
        mask_fractions={},
        noise_realizations=[],
        sky_projection=li.SkyProjection.from_fits_wcs(wcs, li.TractFrame(tract=1, bbox=box, skymap="s")),
        band="r",
        psf=psf,
        patch=None,
    )
    path.unlink(missing_ok=True)
    lsst.images.fits.write(coadd, path, compression_options={"psf": options}, compression_seed=1)
    return path


@settings(max_examples=40, deadline=None)
@given(stored=stored_psfs(), seed=st.integers(0, 99))
def test_every_way_of_writing(
    tmp_path_factory: pytest.TempPathFactory,
    stored: tuple[CellPointSpreadFunction, FitsCompressionOptions | None],
    seed: int,
) -> None:
    """Grids that start anywhere, parts of grids, missing cells, kernels and tiles of any shape, any compression."""
    path = write(tmp_path_factory.getbasetemp() / "any.fits", *stored)
    back = read_archive(path, CellCoadd).psf
    with open_coadd(path) as coadd:
        grid, bounds = coadd.psf, stored[0].bounds
        assert grid.kernel_shape == stored[0].kernel_bbox.shape
        assert grid.bbox == Box(bounds.bbox.y.start, bounds.bbox.y.stop, bounds.bbox.x.start, bounds.bbox.x.stop)
        assert grid.cell_shape == (bounds.grid.cell_shape.y, bounds.grid.cell_shape.x)
        assert len(grid.missing) == grid.grid.y * grid.grid.x - len(list(bounds.cell_indices()))
        for y in range(grid.bbox.y0 - 2, grid.bbox.y1 + 2):
            for x in range(grid.bbox.x0 - 2, grid.bbox.x1 + 2):
                cell, expected = grid.cell_at(y, x), theirs(back, y, x)
                assert (cell == -1) == (expected is None)
                if expected is not None:
                    np.testing.assert_array_equal(coadd.read_psf([cell])[0], expected)


# The JSON tree


def rewrite(path: Path, to: Path, edit: Callable[[Tree], Any]) -> Path:
    """Copy a file with another JSON tree, which must not be longer: blanks fill the rest."""
    with fits.open(path) as hdus:
        at = next(int(row["DATADDR"]) for row in hdus["INDEX"].data if row["EXTNAME"] == "JSON") + 8
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[at - 8 : at - 4])
    tree = json.loads(content[at : at + length])
    del tree["butler_info"]  # makes room
    changed = edit(tree)
    text = changed if isinstance(changed, bytes) else json.dumps(tree, separators=(",", ":")).encode()
    assert len(text) <= length
    content[at : at + length] = text.ljust(length)
    to.write_bytes(content)
    return to


def respelt(value: Any, *, pairs: str) -> Any:
    """Return a tree in which every pair of whole numbers is spelt in one way."""
    if isinstance(value, dict) and value.keys() in ({"y", "x"}, {"i", "j"}):
        both = [respelt(v, pairs=pairs) for v in value.values()]
        return both if pairs == "list" else dict(zip(pairs, both, strict=True))
    if isinstance(value, dict):
        return {key: respelt(v, pairs=pairs) for key, v in value.items()}
    return [respelt(v, pairs=pairs) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def with_hole(dp2_repo: SimulatedRepository) -> tuple[Path, CellCoadd]:
    """A file with a missing cell, whose cells are not square."""
    return next((path, coadd) for path, coadd in coadds(dp2_repo) if coadd.psf.bounds.missing)


@pytest.mark.parametrize("pairs", ["yx", "ij", "list"])
def test_every_spelling_of_pairs(tmp_path: Path, with_hole: tuple[Path, CellCoadd], pairs: str) -> None:
    def edit(tree: Tree) -> None:
        tree["psf"] = respelt(tree["psf"], pairs=pairs)

    path = rewrite(with_hole[0], tmp_path / "spelt.fits", edit)
    with open_coadd(path) as coadd, open_coadd(with_hole[0]) as original:
        assert coadd.psf == original.psf
        assert len(coadd.psf.missing) == 1
    compare(path, with_hole[1].psf, 20, 0)


def test_the_spelling_of_shipped_files(tmp_path: Path, with_hole: tuple[Path, CellCoadd]) -> None:
    """Cells' shapes as lists, the rest as objects: `lsst.images` still reads it."""

    def edit(tree: Tree) -> None:
        for grid in (tree["psf"]["bounds"]["grid"], tree["patch"]["cells"]):
            grid["cell_shape"] = list(grid["cell_shape"].values())

    path = rewrite(with_hole[0], tmp_path / "shipped.fits", edit)
    compare(path, read_archive(path, CellCoadd).psf, 30, 1)


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
        (text(b"{"), "JSON tree is damaged"),
        (text(b"[" * 15000), "JSON tree is damaged"),
        (text(b"1" * 5000), "JSON tree is damaged"),
        (text(b"\xff\xfe"), "JSON tree is damaged"),
        (text(b"[1]"), "is a list, not an object"),
        (lambda tree: tree.update(psf=[]), "psf in the JSON tree is a list"),
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
        (put("array", value={"data": [[[[1.0]]]], "datatype": "float64"}), "kernels inside the JSON tree"),
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
    with open_coadd(path) as coadd, pytest.raises(error, match="JSON tree"):
        _ = coadd.psf


# Files without a PSF, and what may be asked


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


def test_kernels_are_read_only_and_in_order(with_hole: tuple[Path, CellCoadd]) -> None:
    with open_coadd(with_hole[0]) as coadd:
        cells = [cell for cell in range(coadd.psf.grid.y * coadd.psf.grid.x) if cell not in coadd.psf.missing]
        wanted = [*reversed(cells), cells[0], cells[0]]
        together = coadd.read_psf(wanted)
        for cell, kernel in zip(wanted, together, strict=True):
            np.testing.assert_array_equal(kernel, coadd.read_psf([cell])[0])
            assert not kernel.flags.writeable
            assert kernel.flags.c_contiguous


class Counted(LocalSource):
    """A file that keeps account of its reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), str(path))
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return super().read(offset, length)

    def read_into(self, offset: int, to: memoryview) -> None:
        self.reads.append((offset, len(to)))
        super().read_into(offset, to)


@pytest.mark.parametrize("name", ["dp2_repo", "lossless_repo"])
def test_one_kernel_is_one_read(name: str, request: pytest.FixtureRequest) -> None:
    path, _ = next(coadds(request.getfixturevalue(name)))
    source = Counted(path)
    with Coadd(source) as coadd:
        grid = coadd.psf
        for cell in set(range(grid.grid.y * grid.grid.x)) - grid.missing:
            source.reads.clear()
            coadd.read_psf([cell])
            assert len(source.reads) == 1
            assert source.reads[0][1] < 2 * 8 * grid.kernel_shape.y * grid.kernel_shape.x


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


def test_many_threads_at_once(with_hole: tuple[Path, CellCoadd]) -> None:
    with open_coadd(with_hole[0]) as alone:
        cells = sorted(set(range(alone.psf.grid.y * alone.psf.grid.x)) - alone.psf.missing)
        expected = alone.read_psf(cells)
    with open_coadd(with_hole[0]) as coadd, ThreadPoolExecutor(8) as pool:
        for kernels in pool.map(coadd.read_psf, [cells] * 16):
            np.testing.assert_array_equal(kernels, expected)


@given(
    start=st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)),
    cell=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    grid=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    data=st.data(),
)
def test_cells_are_those_of_the_bounds(
    start: tuple[int, int], cell: tuple[int, int], grid: tuple[int, int], data: st.DataObject
) -> None:
    box = Box.from_start(YX(*start), YX(grid[0] * cell[0], grid[1] * cell[1]))
    missing = data.draw(st.frozensets(st.integers(0, grid[0] * grid[1] - 1), max_size=4))
    ours = PsfGrid(YX(35, 35), box, YX(*cell), YX(*grid), missing)
    indices = frozenset(CellIJ(*divmod(number, grid[1])) for number in missing)
    theirs = li.Box.factory[box.y0 : box.y1, box.x0 : box.x1]
    bounds = CellGridBounds(grid=CellGrid(bbox=theirs, cell_shape=li.YX(*cell)), bbox=theirs, missing=indices)
    y, x = data.draw(st.integers(box.y0 - 400, box.y1 + 400)), data.draw(st.integers(box.x0 - 400, box.x1 + 400))
    number = ours.cell_at(y, x)
    index = bounds.grid.index_of(y=y, x=x)
    assert (number >= 0) == bounds.contains_cell(index)
    if number >= 0:
        assert divmod(number, grid[1]) == index.as_tuple()
