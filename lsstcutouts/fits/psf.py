"""Point-spread functions of cell coadds: one kernel for each cell, and which cell a pixel lies in.

Files of ``lsst.images`` keep the kernels as a four-dimensional array ``(cells y, cells x, y, x)`` and describe the
cells in their JSON metadata. Each kernel is read on its own, with one read of neighbouring bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError, PlaneError
from ..sky.geometry import YX, Box
from ..source.byte_source import ByteSource, Streams
from .codecs import decode_tiles, rice_padding
from .headers import BadStructureError, UnknownFeatureError
from .json_tree import member, parse_box, parse_integer, parse_pair, read_tree
from .layout import PlaneLayout
from .structure import FileStructure
from .tile_tables import kernel_layout, tile_table

__all__ = ["CellKernels", "PsfGrid", "cell_kernels"]

_VERSION = 1
"""The version of ``cell_psf`` that is known; a file that needs a later reader says so (``min_read_version``)."""

_SOURCE = re.compile(r"fits:([\w/\-]+)(?:,(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class PsfGrid:
    """The cells of a coadd, each with a PSF of its own. Cells are numbered row by row.

    Attributes
    ----------
    kernel_shape
        Pixels of a kernel; odd, with the PSF's centre on the middle pixel.
    bbox
        Pixels of all cells, tract pixels.
    cell_shape
        Pixels of a cell.
    grid
        Rows and columns of cells.
    missing
        Numbers of the cells that have no PSF.
    """

    kernel_shape: YX[int]
    bbox: Box
    cell_shape: YX[int]
    grid: YX[int]
    missing: frozenset[int]

    def cell_at(self, y: int, x: int) -> int:
        """Return the number of the cell that holds a tract pixel; -1 outside the grid or in a missing cell.

        `lsst.images` turns a position between pixels into a pixel by Python's ``round``, which takes halves to the
        even neighbour (as ``np.rint`` does): ``cell_at(round(y), round(x))`` is the cell of its
        ``compute_kernel_image(x=x, y=y)`` for any position.
        """
        row, column = (y - self.bbox.y0) // self.cell_shape.y, (x - self.bbox.x0) // self.cell_shape.x
        if not (0 <= row < self.grid.y and 0 <= column < self.grid.x):
            return -1
        cell = row * self.grid.x + column
        return -1 if cell in self.missing else cell


@dataclass(frozen=True, slots=True, eq=False)
class CellKernels:
    """Where the kernels of a coadd are in its file.

    Attributes
    ----------
    cells
        The cells of the kernels.
    layout
        How one kernel is coded, without the offsets and sizes of its tiles.
    depth
        Rows and columns of cells that share their tiles: one, in files that Rubin publishes.
    first
        The first byte of all tiles.
    offsets, sizes
        Bytes of each tile from there, ``(groups of cells, tiles of a group)``, in the smallest type that holds them:
        a full-size coadd has 17 000 tiles.
    """

    cells: PsfGrid
    layout: PlaneLayout
    depth: YX[int]
    first: int
    offsets: NDArray[np.unsignedinteger[Any]]
    sizes: NDArray[np.unsignedinteger[Any]]

    def read(self, source: ByteSource, cells: Sequence[int]) -> list[NDArray[np.float64]]:
        """Return one ``(y, x)`` float64 kernel per cell, read-only; neighbouring bytes are read together.

        Raises
        ------
        ConfigurationError
            A cell that is missing or not in the grid.
        BadStructureError
            The bytes of a tile are damaged.
        """
        for cell in cells:
            if not 0 <= cell < self.cells.grid.y * self.cells.grid.x or cell in self.cells.missing:
                raise ConfigurationError(f"cell {cell} of {self.cells.grid} cells has no PSF in {source.uri}")
        groups, n = [self._group(cell) for cell in cells], self.offsets.shape[1]
        offsets, sizes = self.first + self.offsets[groups].astype(np.int64), self.sizes[groups].astype(np.int64)
        padding = rice_padding(self.layout.rice[0]) if self.layout.compression == "RICE_1" else b""
        streams = Streams(source, offsets.ravel(), sizes.ravel(), padding).read().views()
        kernels = []
        for i, (cell, group) in enumerate(zip(cells, groups, strict=True)):
            pixels = self._decode(cell, range(group * n, (group + 1) * n), streams[i * n : (i + 1) * n])
            kernels.append(pixels.astype(np.float64, copy=False))
            kernels[-1].flags.writeable = False
        return kernels

    def extents(self, cells: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return offsets and sizes ``(k,)`` of the tiles that hold the kernels of cells, bytes."""
        groups = sorted({self._group(cell) for cell in cells})
        offsets, sizes = self.first + self.offsets[groups].astype(np.int64), self.sizes[groups].astype(np.int64)
        return offsets.ravel(), sizes.ravel()

    def _group(self, cell: int) -> int:
        """Return the number of the group that a cell shares its tiles with."""
        y, x = divmod(cell, self.cells.grid.x)
        return y // self.depth.y * -(-self.cells.grid.x // self.depth.x) + x // self.depth.x

    def _decode(self, cell: int, tiles: range, streams: list[memoryview]) -> NDArray[Any]:
        """Decode the kernel of a cell, out of tiles that may hold a piece of each of several kernels."""
        if self.depth == (1, 1):
            return decode_tiles(self.layout, Box.from_start(YX(0, 0), self.layout.tile_grid), tiles, streams)
        (rows, y), (columns, x) = (self._shared(k, axis) for axis, k in enumerate(divmod(cell, self.cells.grid.x)))
        kernel = np.empty(self.layout.shape, self.layout.dtype)
        for k, (tile, stream) in enumerate(zip(tiles, streams, strict=True)):
            ty, tx = divmod(k, self.layout.tile_grid.x)
            piece = self.layout.pixels_of(Box(ty, ty + 1, tx, tx + 1))
            # The piece of every kernel, one above the other: an image of one tile.
            stack = YX(rows * columns * piece.shape.y, piece.shape.x)
            layout = replace(self.layout, shape=stack, tile_shape=stack, tile_grid=YX(1, 1))
            pixels = decode_tiles(layout, Box(0, 1, 0, 1), [tile], [stream])
            kernel[piece.slices()] = pixels.reshape(rows, columns, *piece.shape)[y, x]
        return kernel

    def _shared(self, cell: int, axis: int) -> tuple[int, int]:
        """Return how many cells share tiles with a cell, along one axis, and which of them it is."""
        within = cell % self.depth[axis]
        return min(self.depth[axis], self.cells.grid[axis] - cell + within), within


def cell_kernels(structure: FileStructure) -> CellKernels:
    """Return where the kernels of a file are.

    Raises
    ------
    PlaneError
        The file has no PSF, or none that can be evaluated here.
    BadStructureError
        The JSON metadata or the array is damaged, or they contradict each other.
    UnknownFeatureError
        They are of a later version, or stored in a way that no writer uses.
    """
    source, psf = structure.source, _psf_tree(structure)
    hdu = structure.find(_array_name(psf))
    if hdu is None:
        raise BadStructureError(f"the JSON metadata names an HDU that does not exist: {psf['array']['source']}")
    layout, grid, depth = kernel_layout("psf", hdu, tile_table(source, hdu))
    first, tiles, nothing = int(layout.offsets.min()), layout.tile_grid.y * layout.tile_grid.x, np.empty(0, np.int64)
    return CellKernels(
        cells=_psf_grid(psf, grid, layout.shape),
        layout=replace(layout, offsets=nothing, sizes=nothing),
        depth=depth,
        first=first,
        offsets=_smallest_unsigned(layout.offsets - first).reshape(-1, tiles),
        sizes=_smallest_unsigned(layout.sizes).reshape(-1, tiles),
    )


def _psf_tree(structure: FileStructure) -> dict[str, Any]:
    """Return the part of a file's JSON metadata that describes a PSF of cells."""
    source = structure.source
    hdu = structure.find("json") if "JSONADDR" in structure.primary.cards else None
    if hdu is None and "JSONADDR" in structure.primary.cards:
        raise BadStructureError(f"the JSON table that describes it is missing; the file is {structure.cut_off()}")
    if hdu is None:
        raise PlaneError(
            f"{source.uri} has no PSF that can be read here: it was not written by lsst.images. Files of DP0.2 and DP1 "
            "keep a CoaddPsf in archive tables of afw, which only the LSST stack evaluates; read it there "
            "(exposure.getPsf().computeKernelImage), leave out the plane 'psf', or use cell coadds of DP2"
        )
    psf = read_tree(source, hdu).get("psf")
    if psf is None:
        raise PlaneError(f"{source.uri} has no PSF")
    if not isinstance(psf, dict):
        raise BadStructureError(f"psf in the JSON metadata is a {type(psf).__name__}, not an object")
    if not {"array", "bounds"} <= psf.keys():
        kind = str(psf.get("schema_url", "unknown")).rpartition("/")[2][:40]
        raise PlaneError(f"{source.uri} has a PSF of the kind {kind!r}; only those of cell coadds can be read here")
    if (least := parse_integer(psf.get("min_read_version", 1), "psf.min_read_version")) > _VERSION:
        raise UnknownFeatureError(
            f"the PSF needs a reader of version {least}, but this version of lsstcutouts reads only up to {_VERSION}"
        )
    return psf


def _array_name(psf: dict[str, Any]) -> str:
    """Return the name of the HDU that holds the kernels, as a `FileStructure` knows it."""
    array = psf["array"]
    if isinstance(array, dict) and "data" in array:
        raise UnknownFeatureError("kernels inside the JSON metadata")
    name = member(psf, "psf", "array", "source")
    match = _SOURCE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise UnknownFeatureError(f"kernels in {str(name)[:40]!r}, not in an HDU of the file")
    version = int(match[2] or 1)
    return match[1].lower() + (str(version) if version > 1 else "")


def _psf_grid(psf: dict[str, Any], grid: YX[int], kernel: YX[int]) -> PsfGrid:
    """Return the cells that the JSON metadata describes, checked against the array of kernels."""
    shape = member(psf, "psf", "array", "shape")
    if shape != [*grid, *kernel]:
        raise BadStructureError(
            f"psf.array.shape in the JSON metadata is {str(shape)[:40]}, the array has {grid} x {kernel}"
        )
    if not (kernel.y % 2 and kernel.x % 2):
        raise BadStructureError(f"kernels of {kernel}, which have no middle pixel")
    cell = parse_pair(member(psf, "psf", "bounds", "grid", "cell_shape"), "psf.bounds.grid.cell_shape")
    cell = YX(*(parse_integer(size, "psf.bounds.grid.cell_shape", least=1) for size in cell))
    everything = parse_box(member(psf, "psf", "bounds", "grid", "bbox"), "psf.bounds.grid.bbox")
    bbox = parse_box(member(psf, "psf", "bounds", "bbox"), "psf.bounds.bbox")
    if bbox.shape != (grid.y * cell.y, grid.x * cell.x):
        raise BadStructureError(f"psf.bounds.bbox in the JSON metadata, {bbox}, is not {grid} cells of {cell}")
    # Cells are counted from the corner of the whole patch, the array holds only those of `bbox`.
    (start_y, off_y), (start_x, off_x) = (
        divmod(bbox.y0 - everything.y0, cell.y),
        divmod(bbox.x0 - everything.x0, cell.x),
    )
    if off_y or off_x:
        raise BadStructureError(
            f"psf.bounds.bbox in the JSON metadata, {bbox}, does not start with a cell of {everything}"
        )
    return PsfGrid(kernel, bbox, cell, grid, _missing(psf, grid, YX(start_y, start_x)))


def _missing(psf: dict[str, Any], grid: YX[int], start: YX[int]) -> frozenset[int]:
    """Return the numbers of the missing cells, those outside the grid left out."""
    bounds = member(psf, "psf", "bounds")
    cells = bounds.get("missing", [])
    if not isinstance(cells, list):
        raise BadStructureError(f"psf.bounds.missing in the JSON metadata is a {type(cells).__name__}, not a list")
    found = set()
    for cell in cells:
        i, j = (parse_integer(index, "psf.bounds.missing") for index in parse_pair(cell, "psf.bounds.missing"))
        if 0 <= i - start.y < grid.y and 0 <= j - start.x < grid.x:
            found.add((i - start.y) * grid.x + j - start.x)
    return frozenset(found)


def _smallest_unsigned(values: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    """Return the integers in the smallest unsigned type that can represent them."""
    return values.astype(np.min_scalar_type(int(values.max())))
