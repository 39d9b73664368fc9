"""Cutouts for other tools: an astropy WCS, and FITS files that say where everything in them comes from."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..catalog.ids import hash_ids
from ..errors import ConfigurationError, WriteError
from ..plan.cutout_plan import CutoutPlan
from ..sky.geometry import YX, Box, TanProjection
from ..source.writing import atomic_file

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

__all__ = ["batch_projection", "batch_wcs", "file_stem", "write_fits"]

type Array = NDArray[Any]

_log = logging.getLogger(__name__)

_LONGEST = 120
"""Characters of a text id in a file name, of the 255 that file systems allow; a hash stands for the rest."""

_PIXEL_PLANES = ("image", "variance", "ivar", "mask", "valid")
"""Planes ``(N, B, Y, X)`` of a batch, in the order in which a file holds them."""


def batch_wcs(batch: Mapping[str, Any], i: int) -> "WCS":
    """Return the WCS of one cutout: the source files' own, over the 0-based pixels of the cutout.

    All bands of a target share one box on one pixel grid, and so one WCS.

    Parameters
    ----------
    batch
        A batch of numpy arrays or CPU tensors with ``wcs`` ``(N, 8)`` and any plane ``(N, B, Y, X)``.
    i
        Row of the batch.

    Returns
    -------
    astropy.wcs.WCS
        With ``array_shape`` ``(Y, X)``. Methods with ``origin=0`` take and give ``x = 0`` for the centre of the
        first column.

    Raises
    ------
    ConfigurationError
        If the batch has no such row, or the row has no WCS since none of its files was read.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    projection, shape = batch_projection(batch, i), _shape(batch)
    wcs = WCS(Header(projection.header()))
    wcs.array_shape = shape
    return wcs


def write_fits(
    batch: Mapping[str, Any],
    directory: str | os.PathLike[str],
    plan: CutoutPlan,
    *,
    mask_planes: Sequence[str] = (),
    flux_unit: str = "nJy",
    overwrite: bool = False,
) -> list[Path]:
    """Write each target of a batch to a FITS file of its own, named by object, tract and patch.

    Special characters of an id are written as ``%XX`` in the file name, as in a URL; the header has the id.

    A file has an empty primary HDU whose header gives the target and its provenance, and for each band, named in the batch's
    order, an image HDU for every plane of the batch: ``IMAGE_G``, ``VARIANCE_G``, ``IVAR_G``, ``MASK_G``,
    ``VALID_G``, and ``PSF_G`` where there is a kernel. Pixel planes carry the celestial WCS and, as ``LTV1``,
    ``LTV2`` and the "A" WCS, their position on the tract's pixel grid. Nothing is compressed.

    Padding, repeated rows and rows outside the coverage are not written. A file is written completely or not at all.

    Parameters
    ----------
    batch
        Numpy arrays or CPU tensors, before any transform.
    directory
        Made if needed.
    plan
        The plan that the batch was read from.
    mask_planes
        Names of the bits of ``mask``, as they were asked for; written as ``MP_`` keywords.
    flux_unit
        Unit of ``image``.
    overwrite
        Whether existing files are replaced.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of the batch.

    Raises
    ------
    ConfigurationError
        If the batch is not one of this plan, lies on another device, or ``mask_planes`` do not fit its mask.
    WriteError
        If a file is there already, or cannot be written, such as on a full disk; files of the batch that were
        written before it stay.
    """
    arrays = {name: _as_array(name, values) for name, values in batch.items() if name in _USED}
    _check(arrays, plan, mask_planes)
    target_of = _targets(arrays, plan)
    folder = Path(directory)
    paths = {folder / _name(arrays, i, plan, target): (i, target) for i, target in target_of.items()}
    if skipped := len(arrays["object_id"]) - len(target_of) - int(np.sum(arrays["is_padding"])):
        _log.warning("%d of %d rows are outside the coverage and are not written", skipped, len(arrays["object_id"]))
    _prepare(folder, paths, overwrite)
    for path, (i, target) in paths.items():
        _write(path, [_primary(arrays, i, plan, target, mask_planes), *_hdus(arrays, i, plan, mask_planes, flux_unit)])
    return list(paths)


_USED = {*_PIXEL_PLANES, "psf", "psf_present", "band_present", "quality", "wcs", "object_id", "ra", "dec", "tract"} | {
    "object_hash",
    "patch",
    "yx0",
    "offset",
    "is_padding",
}


def _as_array(name: str, values: Any) -> Array:
    try:
        return np.asarray(values)
    except (TypeError, RuntimeError) as error:  # torch: another device, or a gradient
        raise ConfigurationError(
            f"{name!r} of the batch is not an array: {error}; move the batch to the CPU"
        ) from error


def _shape(batch: Mapping[str, Any]) -> tuple[int, int]:
    for name in _PIXEL_PLANES:
        if name in batch:
            y, x = batch[name].shape[-2:]
            return int(y), int(x)
    raise ConfigurationError(
        f"the batch has no plane with pixels; read it with one of planes={', '.join(_PIXEL_PLANES)}"
    )


def batch_projection(batch: Mapping[str, Any], i: int) -> TanProjection:
    """Return the projection over the pixels of one cutout, as its files say."""
    if "wcs" not in batch:
        raise ConfigurationError(f"the batch has no 'wcs', only {', '.join(batch)}; use a batch of this package")
    rows = _as_array("wcs", batch["wcs"])
    if not -len(rows) <= i < len(rows):
        raise ConfigurationError(f"row {i} is not in this batch of {len(rows)} rows")
    if not _has_wcs(rows[i]):
        raise ConfigurationError(f"row {i} of the batch has no WCS, because no file of this target was read")
    return TanProjection.of(rows[i])


def _has_wcs(row: Array) -> bool:
    return bool(np.isfinite(row).all() and row[4] * row[7] != row[5] * row[6])


def _check(arrays: Mapping[str, Array], plan: CutoutPlan, mask_planes: Sequence[str]) -> None:
    missing = sorted({"object_id", "ra", "dec", "tract", "patch", "yx0", "band_present", "is_padding"} - set(arrays))
    if missing:
        raise ConfigurationError(
            f"the batch has no {', '.join(missing)}; use an unchanged batch of a loader or fetcher"
        )
    _shape(arrays)
    if arrays["band_present"].shape[1] != len(plan.bands):
        raise ConfigurationError(
            f"the batch has {arrays['band_present'].shape[1]} bands, but the plan has {', '.join(plan.bands)}; use the plan of this batch"
        )
    if isinstance(mask_planes, str) or ("mask" in arrays) != bool(mask_planes):
        raise ConfigurationError(
            f"mask_planes=(names, ...) must be given if the batch has 'mask', and only then; got mask_planes={mask_planes!r}"
        )
    if mask_planes and np.any(arrays["mask"] >> len(mask_planes)):
        raise ConfigurationError(
            f"the mask has more bits than the {len(mask_planes)} names of mask_planes={tuple(mask_planes)}; use the mask_planes of this batch"
        )


def _targets(arrays: Mapping[str, Array], plan: CutoutPlan) -> dict[int, int]:
    """Return the target of the plan for each row of the batch that is to be written."""
    rows = np.flatnonzero(~arrays["is_padding"].astype(bool) & (arrays["tract"] >= 0))
    wanted = arrays["object_id"][rows]
    keys = {"object_hash": arrays["object_hash"][rows]} if "object_hash" in arrays else {}
    targets = plan.targets_in({"object_id": wanted, **keys})
    placed = plan if plan.grid is None else plan.grid.placed
    same = (targets >= 0) & (placed.yx0[targets] == arrays["yx0"][rows]).all(axis=1)
    same &= plan.tract[targets] == arrays["tract"][rows]
    if plan.grid is not None and "wcs" in arrays:
        same &= np.isclose(plan.grid.placed.wcs[targets], arrays["wcs"][rows], rtol=1e-9, atol=1e-9).all(axis=1)
    if not same.all():
        raise ConfigurationError(
            f"object {wanted[~same][0]} of the batch is not in the plan, or has another box or pixel grid; use the plan of this batch (of a fetcher: the grid= of this fetch)"
        )
    return dict(zip(rows.tolist(), targets.tolist(), strict=True))


def _name(arrays: Mapping[str, Array], i: int, plan: CutoutPlan, target: int) -> str:
    """Return the name of a target's file, with its catalog row if ids repeat."""
    identity = file_stem(arrays["object_id"][i].item())
    row = f"_row{plan.row[target]}" if plan.repeats_ids else ""
    return f"cutout_{identity}_{int(arrays['tract'][i])}_{int(arrays['patch'][i])}{row}.fits"


def file_stem(identity: int | str) -> str:
    """Return an id as a part of a file name: special characters as ``%XX``, the rest of a long one as a hash."""
    if not isinstance(identity, str):
        return str(identity)
    shown = quote(identity, safe="+")
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}~{int(hash_ids([identity])[0]) & (2**64 - 1):016x}"


def _prepare(folder: Path, paths: Mapping[Path, Any], overwrite: bool) -> None:
    """Make the folder and check that no file exists yet, before anything is written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the folder {folder} cannot be created: {error}; choose another folder") from error
    there = [] if overwrite else [path for path in paths if path.exists()]
    if there:
        more = f", as do {len(there) - 1} more" if len(there) > 1 else ""
        raise WriteError(f"{there[0]} exists{more}; choose another folder, or set overwrite=True")


def _write(path: Path, hdus: list[Any]) -> None:
    """Write to a temporary file and rename it when it is complete."""
    from astropy.io.fits import HDUList

    with atomic_file(path) as part, part.open("wb") as stream:
        HDUList(hdus).writeto(stream)


def _primary(arrays: Mapping[str, Array], i: int, plan: CutoutPlan, target: int, mask_planes: Sequence[str]) -> Any:
    """Return the empty first HDU: the target, and where its pixels come from."""
    from astropy.io.fits import PrimaryHDU

    hdu = PrimaryHDU()
    header = hdu.header
    y0, x0 = arrays["yx0"][i].tolist()
    header["CREATOR"] = f"lsstcutouts {__version__}"
    identity = arrays["object_id"][i].item()
    header["OBJECTID"] = (_ascii(identity) if isinstance(identity, str) else identity), "object_id of the catalog"
    header["RA"] = float(arrays["ra"][i]), "[deg] ICRS"
    header["DEC"] = float(arrays["dec"][i]), "[deg] ICRS"
    header["SKYMAP"] = _ascii(plan.skymap)
    header["TRACT"] = int(arrays["tract"][i])
    header["PATCH"] = int(arrays["patch"][i]), "the target's own patch"
    grid = "tract" if plan.grid is None else "grid"
    header["Y0"], header["X0"] = (y0, f"first row, {grid} pixels"), (x0, f"first column, {grid} pixels")
    if "offset" in arrays:
        header["OFFSETY"] = float(arrays["offset"][i, 0]), "[pix] target minus middle of the box"
        header["OFFSETX"] = float(arrays["offset"][i, 1]), "[pix] target minus middle of the box"
    header["REPO"] = _ascii(plan.repo)
    header["COLLECT"] = _ascii(",".join(plan.collections))
    header["DSTYPE"] = _ascii(plan.dataset_type)
    header["BANDS"] = ",".join(plan.bands)
    header["MASKPLNS"] = ",".join(mask_planes), "bits of MASK from 0 on"
    for b, band in enumerate(plan.bands):
        header[f"BAND{b + 1}"] = band
        header[f"PRES{b + 1}"] = bool(arrays["band_present"][i, b]), "some file gave a pixel"
        if "quality" in arrays:
            header[f"QUAL{b + 1}"] = int(arrays["quality"][i, b]), "bits, see lsstcutouts.plan.quality.Quality"
        for k, dataset in enumerate(_datasets(plan, target, b)):
            # Named HIERARCH explicitly: astropy warns if it has to add it.
            key = f"DSID{b + 1}_{k + 1}"
            header[key if len(key) <= 8 else f"HIERARCH {key}"] = dataset, f"dataset under the box, band {band}"
    return hdu


def _datasets(plan: CutoutPlan, target: int, band: int) -> Iterator[str]:
    """Yield the UUIDs of the files under a box, the target's own patch first."""
    box = Box.from_start(YX(*plan.yx0[target].tolist()), plan.box)
    for patch in [int(plan.primary[target]), *plan.others_of(target)]:
        file = int(plan.patches.files[patch, band])
        inner = plan.patches.inner_box(patch)
        y, x = plan.border
        reach = Box(inner.y0 - y, inner.y1 + y, inner.x0 - x, inner.x1 + x)
        if file >= 0 and not reach.intersection(box).is_empty:
            yield plan.files.dataset_id[file]


def _hdus(
    arrays: Mapping[str, Array], i: int, plan: CutoutPlan, mask_planes: Sequence[str], flux_unit: str
) -> Iterator[Any]:
    """Yield the planes of one target, band by band."""
    from astropy.io.fits import ImageHDU

    place = _place_header(arrays, i, plan)
    for b in range(len(plan.bands)):
        for plane in _PIXEL_PLANES:
            if plane not in arrays:
                continue
            pixels = arrays[plane][i, b]
            hdu = ImageHDU(pixels.astype(np.uint8) if plane == "valid" else pixels)
            _identify(hdu.header, plane, plan.bands, b)
            hdu.header["PRESENT"] = bool(arrays["band_present"][i, b]), "some file gave a pixel of this band"
            hdu.header.extend(_unit_cards(plane, mask_planes, flux_unit))
            hdu.header.extend(place)
            yield hdu
        if "psf" in arrays and bool(arrays.get("psf_present", arrays["band_present"])[i, b]):
            hdu = ImageHDU(arrays["psf"][i, b])
            _identify(hdu.header, "psf", plan.bands, b)
            yield hdu


def _identify(header: "Header", plane: str, bands: Sequence[str], b: int) -> None:
    # A name of its own for each band, since viewers list names, not versions. Readers take no notice of case.
    header["EXTNAME"] = f"{plane}_{bands[b]}".upper()
    if namesakes := sum(band.upper() == bands[b].upper() for band in bands[:b]):
        header["EXTVER"] = namesakes + 1
    header["BAND"] = bands[b]


def _unit_cards(plane: str, mask_planes: Sequence[str], flux_unit: str) -> list[tuple[str, str | int]]:
    """Return the cards that say what pixel values mean."""
    if plane == "mask":
        names = [f"MP_{name}" for name in mask_planes]
        return [(n if len(n) <= 8 else f"HIERARCH {n}", bit) for bit, n in enumerate(names)]
    unit = {"image": flux_unit, "variance": f"{flux_unit}**2", "ivar": f"{flux_unit}**-2"}.get(plane)
    return [] if unit is None else [("BUNIT", unit)]


def _place_header(arrays: Mapping[str, Array], i: int, plan: CutoutPlan) -> "Header":
    """Return the celestial WCS, and the position on the tract, or on a grid, as LTV and "A" WCS."""
    from astropy.io.fits import Header

    start = YX(*arrays["yx0"][i].tolist())
    if "wcs" in arrays and _has_wcs(arrays["wcs"][i]):
        header = Header(batch_projection(arrays, i).header())
    elif plan.grid is not None:
        raise ConfigurationError(
            "a batch on your own pixel grid has a 'wcs'; use an unchanged batch of a loader or fetcher"
        )
    else:
        header = Header(plan.projections[int(arrays["tract"][i])].header(start))
    header["WCSNAMEA"] = "TRACT" if plan.grid is None else "GRID"
    for axis, first in ((1, start.x), (2, start.y)):
        # IRAF's, which viewers show as physical coordinates: tract pixels counted from 1. The "A" WCS counts from 0.
        header[f"LTV{axis}"] = -float(first)
        header[f"LTM{axis}_{axis}"] = 1.0
        header[f"CTYPE{axis}A"] = "LINEAR"
        header[f"CUNIT{axis}A"] = "pixel"
        header[f"CRPIX{axis}A"] = 1.0
        header[f"CRVAL{axis}A"] = float(first)
        header[f"CDELT{axis}A"] = 1.0
    return header


def _ascii(text: str) -> str:
    """Return text as FITS headers can hold it."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)
