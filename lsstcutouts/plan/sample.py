"""Measures one coadd for properties that all coadds share: border, tile shape, PSF shape, pixel scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import CorruptFileError, CoverageError, PlaneError, ReadError, UnsupportedFormatError
from ..fits.coadd import Coadd, open_coadd
from ..fits.layout import PlaneLayout
from ..sky.geometry import YX
from ..sky.skymap import check_projection
from .locations import LocatedFile
from .repository import Repository

__all__ = ["CoaddSample", "first_sample"]

BLOCK_SIDE = 750
"""Side of a square locality block, pixels: a quarter of the inner side of a DP2 patch, 25 of its tiles.

A block of six bands has 13.5 MB of decoded pixels, so the default shuffle width keeps 430 MB in memory. For files with
row tiles a block is a full-width strip of the same area."""


@dataclass(frozen=True)
class CoaddSample:
    """Properties of one coadd that all coadds of its dataset type share.

    Attributes
    ----------
    border
        Pixels ``(y, x)`` by which a file extends beyond its inner region.
    block_shape, tile_shape
        Rows and columns of a locality block and of a compressed tile, pixels.
    tile_bytes
        Compressed bytes per pixel of the image plane.
    psf_shape
        Rows and columns of the PSF kernels, pixels; None if there is no readable PSF.
    pixel_scale
        Arcseconds per pixel ``(y, x)``.
    """

    border: YX[int]
    block_shape: YX[int]
    tile_shape: YX[int]
    tile_bytes: float
    psf_shape: YX[int] | None
    pixel_scale: YX[float]


def first_sample(repository: Repository) -> CoaddSample:
    """Return the properties of the first coadd that can be read.

    Raises
    ------
    CoverageError
        If there is no coadd.
    ReadError
        If no coadd can be read.
    """
    failure: ReadError | None = None
    samples = repository.samples()
    for one in samples:
        try:
            return _measure(repository, one, [other.uri for other in samples])
        except ReadError as error:
            failure = error
    if failure is None:
        raise CoverageError(f"found no {repository.where}; check collections= and dataset_type=")
    raise failure


def _measure(repository: Repository, one: LocatedFile, others: Sequence[str]) -> CoaddSample:
    with open_coadd(one.uri, size=one.size, dataset_id=one.dataset_id, others=others) as coadd:
        tract = repository.skymap_of([one.tract]).tracts[one.tract]
        whose = f"tract {one.tract} of skymap {repository.skymap!r}"
        check_projection(coadd.projection, tract.projection, coadd.bbox, one.name, whose)
        bbox, layout, psf_shape = coadd.bbox, coadd.layout("image"), _psf_shape(coadd)
    inner = tract.inner_box(one.patch)
    # A file at the edge of its tract can have a smaller border than other files.
    least = 0 if repository.rings is None else repository.rings.border
    return CoaddSample(
        border=YX(
            y=max(inner.y0 - bbox.y0, bbox.y1 - inner.y1, least),
            x=max(inner.x0 - bbox.x0, bbox.x1 - inner.x1, least),
        ),
        block_shape=_block_shape(layout),
        tile_shape=layout.tile_shape,
        tile_bytes=layout.compressed_bytes / bbox.area,
        psf_shape=psf_shape,
        pixel_scale=tract.projection.pixel_scale,
    )


def _block_shape(layout: PlaneLayout) -> YX[int]:
    """Return the shape of a block, pixels: whole cache units with about the area of a square of `BLOCK_SIDE`."""
    unit = layout.unit_shape
    columns = max(1, round(BLOCK_SIDE / unit.x)) * unit.x
    rows = max(1, round(BLOCK_SIDE * BLOCK_SIDE / columns / unit.y)) * unit.y
    return YX(y=rows, x=columns)


def _psf_shape(coadd: Coadd) -> YX[int] | None:
    """Return the shape of a file's PSF kernels, pixels; None if it has no readable PSF."""
    try:
        return coadd.psf.kernel_shape
    except (PlaneError, CorruptFileError, UnsupportedFormatError):
        return None
