"""Point-spread functions of cell coadds, against `lsst.images`' own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import astropy.units as u
import lsst.images as li
import lsst.images.fits
import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from lsst.images.cells import CellCoadd, CellGrid, CellGridBounds, CellIJ, CellPointSpreadFunction
from lsst.images.fits import FitsCompressionOptions, FitsQuantizationOptions
from lsst.images.serialization import read_archive

from lsstcutouts.fits.coadd import Coadd, open_coadd
from lsstcutouts.fits.psf import PsfGrid
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.examples import examples
from ..support.psf import Counted, Tree, coadds, rewrite
from ..support.repositories import simulated_once


@pytest.fixture(scope="module")
def lossless_repo() -> SimulatedRepository:
    """One patch of 5 x 7 cells of 47 x 30 pixels in three bands, one of them with a missing cell, without loss."""
    config = SimulationConfig(
        release="dp2", cells=(3, 5), cell=(47, 30), grid=(2, 2), patches=[3], bands="ugr", targets=1, seed=3,
        compression="lossless", missing=None,
    )  # fmt: skip
    return simulated_once(config)


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


@examples(40)
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


def respelt(value: Any, *, pairs: str) -> Any:
    """Return a tree in which every pair of whole numbers is spelt in one way."""
    if isinstance(value, dict) and value.keys() in ({"y", "x"}, {"i", "j"}):
        both = [respelt(v, pairs=pairs) for v in value.values()]
        return both if pairs == "list" else dict(zip(pairs, both, strict=True))
    if isinstance(value, dict):
        return {key: respelt(v, pairs=pairs) for key, v in value.items()}
    return [respelt(v, pairs=pairs) for v in value] if isinstance(value, list) else value


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


def test_kernels_are_read_only_and_in_order(with_hole: tuple[Path, CellCoadd]) -> None:
    with open_coadd(with_hole[0]) as coadd:
        cells = [cell for cell in range(coadd.psf.grid.y * coadd.psf.grid.x) if cell not in coadd.psf.missing]
        wanted = [*reversed(cells), cells[0], cells[0]]
        together = coadd.read_psf(wanted)
        for cell, kernel in zip(wanted, together, strict=True):
            np.testing.assert_array_equal(kernel, coadd.read_psf([cell])[0])
            assert not kernel.flags.writeable
            assert kernel.flags.c_contiguous


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
