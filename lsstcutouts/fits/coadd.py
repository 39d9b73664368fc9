"""One coadd file: its grid, its planes and their pixels."""

import contextlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError, CorruptFileError, LsstCutoutsError, PlaneError, UnsupportedFormatError
from ..sky.geometry import YX, Box
from ..source.byte_source import ByteSource, open_source
from .bitplanes import first_bit, mask_bit, mask_hdus, mask_keys
from .decode import decode_rectangle, decode_units
from .headers import BadStructureError, Cards, Hdu, UnknownFeatureError
from .layout import PLANES, PlaneLayout
from .plane_errors import PlaneErrors
from .psf import CellKernels, PsfGrid, cell_kernels
from .structure import FileStructure, file_structure
from .tile_tables import plane_layout, tile_table
from .units import nanojansky_per_unit
from .wcs import PixelProjection, array_origin, astropy_wcs, pixel_projection

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from lsst.resources import ResourcePath

__all__ = ["Coadd", "checked_coadd", "open_coadd"]

_EXTRA_MASK = re.compile(r"mask[1-9]\d{0,2}")


def open_coadd(
    uri: "str | os.PathLike[str] | ResourcePath",
    *,
    size: int | None = None,
    dataset_id: str = "",
    others: Sequence[str] = (),
) -> "Coadd":
    """Open a coadd file of any Rubin release.

    Only headers are read. A file that is gzipped as a whole is decompressed into the folder for temporary files, and
    uses space there while it is open.

    Parameters
    ----------
    uri
        A path, or a URI that ``lsst.resources`` reads.
    size
        Expected size of the file in bytes; None or less than 1 if unknown.
    dataset_id
        UUID of the dataset: its bytes never change, and come from the disk cache if they are there.
    others
        URIs of other files. If the host denies access to this one, a few of them show whether it denies all.

    Raises
    ------
    MissingFileError
        There is no such file.
    AuthenticationError
        The host denies access to all files.
    AccessDeniedError
        The host denies access to this file only.
    CorruptFileError
        It is not FITS, does not have ``size`` bytes, or its image is truncated. Other planes are checked when they are
        first used.
    UnsupportedFormatError
        It is FITS but not a coadd: it has no image plane, or no position on the pixel grid of a tract.
    WriteError
        It is gzipped and there is no space to decompress it.
    """
    expected = size if size is not None and size > 0 else -1
    source = open_source(uri, size=expected, dataset_id=dataset_id, others=others)
    try:
        return checked_coadd(source, expected)
    except LsstCutoutsError:
        source.close()
        raise


def checked_coadd(source: ByteSource, size: int) -> "Coadd":
    """Return the coadd in an open file that should have ``size`` bytes (less than 1: unknown); errors as `open_coadd`."""
    if size > 0 and size != source.size:
        raise CorruptFileError(
            f"{source.uri} has {source.size} bytes, but the repository recorded {size}; transfer the file again"
        )
    return Coadd(source)


class Coadd:
    """An open coadd file. Any number of threads may read from it.

    A context manager; a coadd that is dropped closes its file as well. Closing while another thread reads is not
    safe: drop the coadd instead.

    Parameters
    ----------
    source
        The file.

    Attributes
    ----------
    uri
        Where the file is.
    bbox
        Box of its pixels, tract pixels.
    stamp
        What tells the file's content from another one.
    gzipped
        Whether it is gzipped as a whole.
    """

    def __init__(self, source: ByteSource) -> None:
        self.uri = source.uri
        self._lock = threading.Lock()
        self._hdus: dict[str, Hdu | None] = {}
        self._layouts: dict[str, PlaneLayout] = {}
        with self._plane_errors("image"):
            self._structure: FileStructure = file_structure(source)
        self._source = self._structure.source
        self.stamp, self.gzipped = source.stamp, self._source is not source
        image = self._hdu("image")
        with self._plane_errors("image"):
            if image.cut:
                raise BadStructureError(image.cut)
            if len(image.axes) != 2:
                raise UnknownFeatureError(f"an image of {len(image.axes)} dimensions, not two")
            self.bbox = Box.from_start(array_origin(image.cards), YX(*image.axes[::-1]))

    @cached_property
    def data_id(self) -> dict[str, str]:
        """What the Butler wrote into the header when it stored the file, such as ``tract``, ``patch`` and ``band``.

        Empty where there is no such record.
        """
        cards = self._structure.primary.cards
        prefix = "LSST BUTLER DATAID "
        return {key.removeprefix(prefix).lower(): str(cards.get(key)) for key in cards if key.startswith(prefix)}

    @property
    def planes(self) -> tuple[str, ...]:
        """Which of image, mask and variance the file holds; after them ``mask2`` and so on, of more than 31 bits.

        Without those whose header is damaged; `layout` says what is wrong with it.
        """
        found = []
        for plane in PLANES:
            with contextlib.suppress(CorruptFileError):
                found += [plane] if self._holds(plane) else []
        with contextlib.suppress(CorruptFileError):
            found += list(self._masks)[1:]
        return tuple(found)

    @cached_property
    def projection(self) -> PixelProjection:
        """From tract pixels to the sky, distortions and all.

        Raises
        ------
        UnsupportedFormatError
            The file's WCS is no gnomonic projection, with or without SIP distortions.
        """
        with self._plane_errors("image"):
            return pixel_projection(self._wcs_cards, self.bbox.start)

    @cached_property
    def wcs(self) -> "WCS":
        """The file's WCS over 0-based tract pixels, for astropy."""
        with self._plane_errors("image"):
            return astropy_wcs(self._wcs_cards, self.bbox.start)

    @cached_property
    def mask_planes(self) -> dict[str, int]:
        """Bits of the mask by name: ``MSKN``/``MSKM`` cards of ``lsst.images``, ``MP_`` cards of afw.

        Counted over all mask HDUs, of which `lsst.images` writes one for every 31 planes: bit 31 is the first of
        ``mask2``. `mask_location` says which plane to read.

        Raises
        ------
        PlaneError
            The file has no mask plane.
        """
        places = {name: self.mask_location(name) for name in self.mask_names}
        return {name: first_bit(plane) + bit for name, (plane, bit) in places.items()}

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the mask planes, whatever their bits; `PlaneError` where the file has none."""
        return tuple(self._mask_keys)

    def mask_location(self, name: str) -> tuple[str, int]:
        """Return the plane (``mask``, ``mask2``, ...) and the bit in its pixels of a mask plane.

        Raises
        ------
        PlaneError
            The file has no mask, or no mask plane of this name.
        CorruptFileError
            What the header says of its bit is no bit.
        """
        if name not in self._mask_keys:
            raise PlaneError(f"{self.uri} has no mask plane {name!r}; it has {', '.join(sorted(self._mask_keys))}")
        plane, cards, key = self._mask_keys[name]
        with self._plane_errors(plane):
            return plane, mask_bit(cards, key)

    @cached_property
    def _mask_keys(self) -> dict[str, tuple[str, Cards, str]]:
        return mask_keys(self._masks or {"mask": self._hdu("mask")})

    @cached_property
    def _masks(self) -> dict[str, Hdu]:
        """The HDUs that hold masks."""
        with self._plane_errors("mask"):
            return mask_hdus(self._structure, self._find)

    @cached_property
    def flux_scale(self) -> float:
        """NanoJansky for each unit of the stored image, by which its values are multiplied to be in nJy.

        1.0 for files in nJy. Variances are multiplied by its square.

        Raises
        ------
        FluxUnitError
            The unit is none of flux density, or counts whose zero point the file does not give.
        CorruptFileError
            The zero point is damaged.
        """
        image = self._hdu("image")
        with self._plane_errors("image"):
            return nanojansky_per_unit(self._structure, image)

    @property
    def psf(self) -> PsfGrid:
        """The cells of the coadd, each with a PSF of its own.

        Raises
        ------
        PlaneError
            The file has no PSF, or one that only the LSST stack evaluates: every file written by afw.
        CorruptFileError
            What the file says of its PSF is damaged.
        UnsupportedFormatError
            Its PSF is stored in an unknown way.
        """
        return self.kernels.cells

    @cached_property
    def kernels(self) -> CellKernels:
        """Where the PSF kernels are in the file; errors as `psf`."""
        with self._plane_errors("psf"):
            return cell_kernels(self._structure)

    def read_psf(self, cells: Sequence[int]) -> list[NDArray[np.float64]]:
        """Return PSF kernels as stored, ``(y, x)`` of ``psf.kernel_shape``, read-only, in the order asked for.

        The kernel of `lsst.images`' ``compute_kernel_image``, bit for bit. Its sum is not exactly 1.

        Parameters
        ----------
        cells
            Numbers of cells, from ``psf.cell_at``.

        Raises
        ------
        ConfigurationError
            A cell that is missing or not in the grid.
        PlaneError, UnsupportedFormatError
            As `psf`.
        CorruptFileError
            The file is damaged; the message names the tile.
        """
        kernels = self.kernels
        with self._plane_errors("psf"):
            return kernels.read(self._source, cells)

    def unit(self, plane: str) -> str:
        """Return the unit of a plane (``BUNIT``), an empty string where the file gives none."""
        return self._hdu(plane).cards.string("BUNIT")

    def layout(self, plane: str) -> PlaneLayout:
        """Return where and how the pixels of a plane are stored.

        Raises
        ------
        PlaneError
            The file has no such plane.
        CorruptFileError
            Its header or its tile table is damaged, or the file ends before it does.
        UnsupportedFormatError
            It is not a two-dimensional image.
        """
        known = self._layouts.get(plane)
        if known is not None:
            return known
        hdu = self._hdu(plane)
        with self._plane_errors(plane):
            table = tile_table(self._source, hdu)
            layout = plane_layout("mask" if plane.startswith("mask") else plane, hdu, table)
            layout = layout if layout.plane == plane else replace(layout, plane=plane)
            if layout.shape != self.bbox.shape:
                raise BadStructureError(f"{layout.shape} pixels, the image has {self.bbox.shape}")
            if (origin := array_origin(hdu.cards, self.bbox.start)) != self.bbox.start:
                raise BadStructureError(f"this plane starts at pixel {origin}, but the image at {self.bbox.start}")
        self._hdus[plane] = replace(hdu, lead=b"")
        return self._layouts.setdefault(plane, layout)

    def read(self, plane: str, box: Box | None = None) -> NDArray[Any]:
        """Return pixels of a plane, decoding only the tiles under the box.

        Parameters
        ----------
        plane
            ``image``, ``mask``, ``variance``; ``mask2`` and so on where `planes` has them.
        box
            In tract pixels; the whole plane by default. It may not leave `bbox`.

        Returns
        -------
        pixels
            ``box.shape``; float32 in the unit of the plane, int32 for the mask.

        Raises
        ------
        ConfigurationError
            The box is empty or leaves `bbox`.
        PlaneError
            The file has no such plane.
        CorruptFileError
            A tile is damaged.
        """
        box = self.bbox if box is None else Box(*box)
        if box.is_empty or not self.bbox.contains(box):
            raise ConfigurationError(
                f"{box} is empty or not inside {self.bbox}, the pixels of {self.uri}; give a box inside them"
            )
        layout, wanted = self.layout(plane), box.relative_to(self.bbox.start)
        tiles = layout.tiles_under(wanted)
        with self._plane_errors(plane):
            pixels = decode_rectangle(self._source, layout, tiles)
        inside = wanted.slices(layout.pixels_of(tiles).start)
        return pixels if pixels.shape == wanted.shape else pixels[inside].copy()

    def read_units(self, plane: str, units: Sequence[int]) -> list[NDArray[Any]]:
        """Return decoded cache units in the given order: arrays ``(Y, X)`` in the unit of the file, C-contiguous and read-only.

        Parameters
        ----------
        plane
            ``image``, ``mask``, ``variance``; ``mask2`` and so on where `planes` has them.
        units
            Numbers of units, row by row over ``layout(plane).unit_grid``.

        Raises
        ------
        ConfigurationError
            There is no unit of this number.
        PlaneError, CorruptFileError
            As `read`; the message names the damaged tile.
        """
        layout = self.layout(plane)
        for unit in units:
            if not 0 <= unit < layout.units:
                raise ConfigurationError(
                    f"{self.uri}: {plane} plane: there is no cache unit {unit}; it has {layout.units} units, counted from 0"
                )
        with self._plane_errors(plane):
            arrays = decode_units(self._source, layout, units)
        for array in arrays:
            array.flags.writeable = False
        return arrays

    @property
    def source(self) -> ByteSource:
        """The bytes of the file, decompressed if it is gzipped as a whole."""
        return self._source

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Coadd {self.uri} {self.bbox}>"

    @property
    def _wcs_cards(self) -> Hdu:
        """The header with the celestial WCS: the image's, in old files the primary one."""
        image = self._hdu("image")
        return image if "CTYPE1" in image.cards else self._structure.primary

    def _holds(self, plane: str) -> bool:
        """Whether the file has pixels of a plane."""
        hdu = self._find(plane)
        with self._plane_errors(plane):
            return hdu is not None and not hdu.is_empty

    def _find(self, plane: str) -> Hdu | None:
        """Return the HDU of a plane, or None."""
        with self._lock, self._plane_errors(plane):
            if plane not in self._hdus:
                self._hdus[plane] = self._structure.find(plane)
            return self._hdus[plane]

    def _hdu(self, plane: str) -> Hdu:
        """Return the HDU of a plane that has to be there."""
        if plane not in PLANES and not (_EXTRA_MASK.fullmatch(plane) and self._holds(plane)):
            raise PlaneError(f"there is no plane {plane!r}; the planes of {self.uri} are {', '.join(self.planes)}")
        hdu = self._find(plane)
        if hdu is not None and self._holds(plane):
            return hdu
        with self._plane_errors(plane):
            if hdu is None and (why := self._structure.cut_off()):
                raise BadStructureError(f"not there; the file is {why}")
        if plane == "image":
            raise UnsupportedFormatError(
                f"{self.uri} has no image plane: it is not a coadd, or its layout is not supported; give the file of a coadd"
            )
        raise PlaneError(
            f"{self.uri} has {'no' if hdu is None else 'an empty'} {plane} plane; it has {', '.join(self.planes)}"
        )

    def _plane_errors(self, plane: str) -> PlaneErrors:
        return PlaneErrors(self.uri, plane)
