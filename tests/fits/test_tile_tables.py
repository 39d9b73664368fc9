"""Tile tables that astropy reads and does not write, put together by hand; bit for bit against its decoder."""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lsstcutouts.errors import CorruptFileError, UnsupportedFormatError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.sky.geometry import Box

from ..support.examples import examples
from ..support.planes import ORIGIN, assert_as_astropy, assert_same_bits, boxes, shapes, tile_shapes, write

BITPIX = {8: "u1", 16: "i2", 32: "i4", -32: "f4", -64: "f8"}
VARIABLE = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")


@dataclass
class Table:
    """A compressed image: what is in each tile, and how it is described."""

    shape: tuple[int, int]
    tile: tuple[int, int]
    bitpix: int
    compression: str
    descriptor: str = "P"
    cards: dict[str, object] = field(default_factory=dict)
    streams: list[tuple[str, bytes]] = field(default_factory=list)
    """Of each tile: its column and bytes."""
    columns: dict[str, tuple[str, list[float]]] = field(default_factory=dict)
    """``TFORM`` and values, by name."""

    def tiles(self) -> list[tuple[slice, slice]]:
        (ny, nx), (ty, tx) = self.shape, self.tile
        return [np.s_[y : min(y + ty, ny), x : min(x + tx, nx)] for y in range(0, ny, ty) for x in range(0, nx, tx)]

    def tobytes(self, order: list[str]) -> bytes:
        """Return header and data."""
        variable = dict.fromkeys(column for column, _ in self.streams)
        names = [name for name in order if name in self.columns or name in variable or name == "COMPRESSED_DATA"]
        dtypes = {"1P": "2>i4", "1Q": "2>i8", "1D": ">f8", "1J": ">i4", "1E": ">f4"}
        forms = {name: self.columns[name][0] if name in self.columns else f"1{self.descriptor}" for name in names}
        rows = np.zeros(len(self.streams), [(name, dtypes[forms[name]]) for name in names])
        for name, (_, values) in self.columns.items():
            rows[name] = values
        heap = b"gap"  # streams need not start with the heap, nor follow each other
        for i, (column, stream) in enumerate(self.streams):
            width = abs(self.bitpix) // 8 if column == "UNCOMPRESSED_DATA" else 1
            rows[column][i] = len(stream) // width, len(heap)
            heap += stream + b"\xaa" * (i % 3)
        letter = {8: "B", 16: "I", 32: "J", -32: "E", -64: "D"}[self.bitpix]
        header = fits.Header({"XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": rows.itemsize})
        header.update({"NAXIS2": len(rows), "PCOUNT": len(heap), "GCOUNT": 1, "TFIELDS": len(names)})
        for n, name in enumerate(names, 1):
            element = letter if name == "UNCOMPRESSED_DATA" else "B"
            header[f"TTYPE{n}"], header[f"TFORM{n}"] = name, forms[name] + (element if name in VARIABLE else "")
        header.update({"ZIMAGE": True, "ZCMPTYPE": self.compression, "ZBITPIX": self.bitpix, "ZNAXIS": 2})
        header.update(
            {"ZNAXIS1": self.shape[1], "ZNAXIS2": self.shape[0], "ZTILE1": self.tile[1], "ZTILE2": self.tile[0]}
        )
        header.update({"EXTNAME": "IMAGE", "LTV1": -ORIGIN.x, "LTV2": -ORIGIN.y, **self.cards})
        data = rows.tobytes() + heap
        return header.tostring().encode() + data + bytes(-len(data) % 2880)

    def save(self, path: Path, order: list[str] | None = None) -> Path:
        default = [*VARIABLE, "ZSCALE", "ZZERO", "ZBLANK"]
        path.write_bytes(fits.PrimaryHDU().header.tostring().encode() + self.tobytes(order or default))
        return path


def coded(values: NDArray[np.integer], compression: str, block: int) -> bytes:
    """Return a stream of a tile."""
    if compression == "RICE_1":
        return bytes(imagecodecs.rcomp_encode(np.ascontiguousarray(values).reshape(-1), nblock=block))
    big = values.astype(values.dtype.newbyteorder(">")).reshape(-1)
    if compression == "NOCOMPRESS":
        return big.tobytes()
    if compression == "GZIP_2":
        big = big.view(np.uint8).reshape(-1, big.itemsize).T
    return gzip.compress(big.tobytes(), mtime=0)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, list[str], list[Box]]:
    """Images of every type and coding, with tiles that are not quantised, and the order of the columns."""
    shape = draw(shapes)
    table = Table(
        shape=shape,
        tile=draw(tile_shapes(shape)),
        bitpix=draw(st.sampled_from([8, 16, 32, -32, -32, -64])),
        compression=draw(st.sampled_from(["RICE_1", "RICE_1", "GZIP_1", "GZIP_2", "NOCOMPRESS"])),
        descriptor=draw(st.sampled_from("PQ")),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # What is coded may be wider or narrower than the type of the plane.
    width = draw(st.sampled_from([1, 2, 4, min(4, abs(table.bitpix) // 8)]))
    block = draw(st.sampled_from([4, 8, 16, 32, 64, 256]))
    if table.compression == "RICE_1":
        if draw(st.booleans()):
            table.compression = "RICE_ONE"
        table.cards |= {"ZNAME1": "BLOCKSIZE", "ZVAL1": block, "ZNAME2": "BYTEPIX", "ZVAL2": width}
    if table.bitpix < 0:
        _draw_quantisation(draw, table, rng, width)
    elif draw(st.booleans()):
        table.cards |= {"BSCALE": 0.37, "BZERO": -12.5, "BLANK": 3}
    other = draw(st.sampled_from(["GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"])) if table.bitpix < 0 else ""
    compression = table.compression.replace("RICE_ONE", "RICE_1")
    for place in table.tiles():
        ny, nx = (part.stop - part.start for part in place)
        if other and rng.random() < 0.3:
            floats = rng.normal(0, 1, (ny, nx)).astype(f">f{abs(table.bitpix) // 8}")
            floats[0, 0] = rng.choice([np.nan, np.inf, -0.0])
            stream = floats.tobytes() if other == "UNCOMPRESSED_DATA" else gzip.compress(floats.tobytes(), mtime=0)
            table.streams.append((other, stream))
        else:
            table.streams.append(("COMPRESSED_DATA", coded(_integers(rng, (ny, nx), width), compression, block)))
    order = draw(st.permutations([*VARIABLE, "ZSCALE", "ZZERO", "ZBLANK"]))
    return table, order, draw(st.lists(boxes(shape), max_size=3))


def _integers(rng: np.random.Generator, shape: tuple[int, int], width: int) -> NDArray[np.integer]:
    values = rng.normal(20, rng.choice([0, 2, 30]), shape)
    values[rng.random(shape) < 0.1] = 3
    if width == 4:
        values[rng.random(shape) < 0.1] = -2147483646
        values[rng.random(shape) < 0.1] = -2147483648
    info = np.iinfo(f"{'u' if width == 1 else 'i'}{width}")
    return np.clip(values, info.min, info.max).astype(info.dtype)


def _draw_quantisation(draw: st.DrawFn, table: Table, rng: np.random.Generator, width: int) -> None:
    count = len(table.tiles())
    table.columns["ZSCALE"] = "1D", rng.uniform(0.001, 3, count).tolist()
    table.columns["ZZERO"] = "1D", rng.normal(0, 100, count).tolist()
    table.cards["ZQUANTIZ"] = draw(st.sampled_from(["NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"]))
    table.cards["ZDITHER0"] = draw(st.integers(1, 10000))
    blank = draw(st.sampled_from(["none", "keyword", "column", "both"]))
    value = 3 if width < 4 else -2147483648
    if blank in ("keyword", "both"):
        table.cards["ZBLANK"] = value
    if blank in ("column", "both"):
        table.columns["ZBLANK"] = "1J", rng.choice([value, 20, 21], count).tolist()


@examples(150)
@given(drawn=tables())
def test_tables_of_any_kind(tmp_path: Path, drawn: tuple[Table, list[str], list[Box]]) -> None:
    """Block sizes, element widths, 64-bit descriptors, tiles of another coding, blanks by tile, columns in any order."""
    table, order, some = drawn
    path = table.save(tmp_path / "table.fits", order)
    assert_as_astropy(path, "image", some)


def quantised(**cards: object) -> Table:
    """Return a table of 3 x 2 tiles with the same scale and zero."""
    rng = np.random.default_rng(4)
    table = Table((30, 40), (10, 20), -32, "GZIP_2", cards={"ZQUANTIZ": "SUBTRACTIVE_DITHER_2", "ZDITHER0": 7, **cards})
    table.columns = {"ZSCALE": ("1D", [0.25] * 6), "ZZERO": ("1D", [-3.5] * 6)}
    table.streams = [("COMPRESSED_DATA", coded(_integers(rng, (10, 20), 4), "GZIP_2", 32)) for _ in range(6)]
    return table


def test_scale_and_zero_as_keywords(tmp_path: Path) -> None:
    """The standard allows keywords instead of columns (section 10.2); astropy does not know them."""
    table = quantised()
    expected = read(table.save(tmp_path / "columns.fits"))
    table.columns = {}
    table.cards |= {"ZSCALE": 0.25, "ZZERO": -3.5}
    assert_same_bits(read(table.save(tmp_path / "keywords.fits")), expected)


def read(path: Path) -> NDArray[np.float32]:
    with open_coadd(path) as coadd:
        return coadd.read("image")


def test_uzscale_changes_nothing(tmp_path: Path) -> None:
    """afw 2026 writes one scale for all tiles: still in the ZSCALE column, and once more as UZSCALE for people."""
    path = quantised(UZSCALE=0.25).save(tmp_path / "uniform.fits")
    assert_as_astropy(path, "image", [Box(3, 20, 5, 33)])
    assert_same_bits(read(path), read(quantised(UZSCALE=99.0).save(tmp_path / "other.fits")))


@pytest.mark.parametrize("scale", [0.125, 2.0])
def test_one_scale_for_all_tiles(tmp_path: Path, scale: float) -> None:
    pixels = np.random.default_rng(3).normal(0, 5, (30, 40)).astype(np.float32)
    hdu = fits.CompImageHDU(pixels, name="IMAGE", quantize_level=-scale, quantize_method=2, dither_seed=5)
    hdu.header["UZSCALE"] = scale
    path = write(tmp_path / "uniform.fits", image=hdu)
    assert_as_astropy(path, "image", [Box(3, 20, 5, 33)])
    with open_coadd(path) as coadd:
        quantisation = coadd.layout("image").quantisation
        assert quantisation is not None
        assert set(quantisation.scale) == {scale}


def test_seeds_differ_between_files(tmp_path: Path) -> None:
    one, other = (read(quantised(ZDITHER0=seed).save(tmp_path / f"{seed}.fits")) for seed in (7, 8))
    assert (one != other).any()
    np.testing.assert_allclose(one, other, rtol=0, atol=0.25)


REFUSED = {
    "compression 'FANCY_9'": {"ZCMPTYPE": "FANCY_9"},
    "quantisation 'FANCY'": {"ZQUANTIZ": "FANCY"},
    "BLOCKSIZE 0 and BYTEPIX 4": {"ZCMPTYPE": "RICE_1", "ZNAME1": "BLOCKSIZE", "ZVAL1": 0},
    "BLOCKSIZE 32 and BYTEPIX 8": {"ZCMPTYPE": "RICE_1", "ZNAME1": "BYTEPIX", "ZVAL1": 8},
    "in elements of 2 bytes": {"TFORM1": "1PI"},
    "in elements of 1 bytes": {"ZCMPTYPE": "PLIO_1"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_nobody_knows_is_refused(tmp_path: Path, message: str) -> None:
    path = quantised(**REFUSED[message]).save(tmp_path / "odd.fits")
    with open_coadd(path) as coadd, pytest.raises(UnsupportedFormatError, match=message):
        coadd.read("image")


@pytest.mark.parametrize("count", [2**31 - 1, 2**40, 2**62, -1])
@pytest.mark.parametrize("place", [0, 1])
def test_descriptors_that_lie(tmp_path: Path, count: int, place: int) -> None:
    table = quantised()
    table.descriptor = "Q"
    path = table.save(tmp_path / "lie.fits")
    with open_coadd(path) as coadd:
        at = coadd._structure.find("image").data_at + 8 * place  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[at : at + 8] = count.to_bytes(8, signed=True)
    path.write_bytes(data)
    with open_coadd(path) as coadd, pytest.raises(CorruptFileError, match="image plane: "):
        coadd.read("image")
