"""Rows of an export as Arrow tables: columns of the catalog, what is known of each row, and pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..read.cutouts import Batch
from ..read.exports.export_description import PLANE_COLUMNS, ExportDescription

__all__ = ["export_table", "pixel_columns", "row_bytes"]

type Array = NDArray[Any]

_FWHM = 2.3548200450309493
"""Full width at half maximum of a Gaussian over its standard deviation, ``2 sqrt(2 ln 2)``."""

_HALF = 32768.0
"""Largest absolute value of a scaled float16, which holds 65504 at the most."""

_OTHER_BYTES = 400
"""Bytes of a row besides its planes and the columns of the catalog, about."""


def row_bytes(description: ExportDescription) -> int:
    """Return the bytes of the planes of a row, and about those of the other columns of an export."""
    pixels = len(description.bands) * description.size.y * description.size.x
    floats = 2 if description.dtype == "float16" else 4
    each = {"image": floats, "variance": floats, "ivar": 4, "mask": 4, "valid": 0.25}
    total = sum(each.get(plane, 0) * pixels for plane in description.planes)
    if "psf" in description.planes and description.psf_shape is not None:
        total += 4 * len(description.bands) * description.psf_shape.y * description.psf_shape.x
    levels = 1 + 1 / min(description.size)  # where lists begin
    return int(total * levels) + _OTHER_BYTES


def export_table(
    description: ExportDescription,
    known: Mapping[str, pa.Array],
    copied: pa.Table,
    batch: Batch,
    present: NDArray[np.bool_],
) -> pa.Table:
    """Return some rows of an export, ``n``.

    Parameters
    ----------
    description
        Of the export.
    known
        Columns of all rows, ``(n,)`` each.
    copied
        Columns of the catalog, of all rows.
    batch
        Planes ``(m, B, Y, X)`` of the rows that have pixels.
    present
        ``(n,)`` which rows these are.
    """
    arrays: dict[str, pa.Array] = {**known, **{name: copied[name].combine_chunks() for name in copied.column_names}}
    count = int(present.sum())
    bands = np.arange(len(present) + 1, dtype=np.int32) * len(description.bands)
    names = pa.array(list(description.bands) * len(present), pa.string())
    arrays["band"] = pa.ListArray.from_arrays(pa.array(bands), names)
    for name, values in pixel_columns(description, batch, count).items():
        arrays[name] = _lists(values, present)
    fields = [
        pa.field(name, array.type, nullable=name not in {"_healpix_29", "object_id", "row", "ra", "dec", "outcome"})
        for name, array in arrays.items()
    ]
    return pa.table(list(arrays.values()), schema=pa.schema(fields))


def pixel_columns(description: ExportDescription, batch: Batch, count: int) -> dict[str, Array]:
    """Return the columns that rows with pixels have, ``(m, ...)`` each."""
    stored: dict[str, Array] = {}
    bands, size = len(description.bands), description.size
    wcs = np.asarray(batch["wcs"]) if count else np.zeros((0, 8))
    stored["wcs"] = wcs
    determinant = np.abs(wcs[:, 4] * wcs[:, 7] - wcs[:, 5] * wcs[:, 6])
    stored["scale"] = np.repeat(3600 * np.sqrt(determinant)[:, None], bands, axis=1).astype(np.float32)
    shape = description.psf_shape
    if "psf" in description.planes and shape is not None:
        psf = np.asarray(batch["psf"]) if count else np.zeros((0, bands, *shape), np.float32)
        stored["psf_present"] = np.asarray(batch["psf_present"]) if count else np.zeros((0, bands), bool)
        stored["psf_fwhm"] = (psf_fwhm(psf) * stored["scale"]).astype(np.float32)
        stored["psf"] = psf
    types = {"mask": np.int32, "valid": np.bool_}
    for plane in (plane for plane in description.planes if plane != "psf"):
        empty: Array = np.zeros((0, bands, size.y, size.x), types.get(plane, np.float32))
        values = np.asarray(batch[plane]) if count else empty
        name = PLANE_COLUMNS[plane]
        if description.dtype == "float16" and plane in {"image", "variance"}:
            values, stored[f"{name}_scale"] = scaled_halves(values)
        stored[name] = values
        if plane == "valid":
            stored["mask"] = values  # True for good pixels, as in the Multimodal Universe
    return stored


def psf_fwhm(psf: NDArray[np.float32]) -> Array:
    """Return the width of kernels ``(m, B, y, x)`` in pixels, ``(m, B)``: from second moments, as a Gaussian; NaN for none.

    ``FWHM = 2.355 (Ixx Iyy - Ixy^2)^(1/4)``, as the Multimodal Universe computes it from the moments of a catalog.
    """
    y, x = (np.arange(n) - (n - 1) / 2 for n in psf.shape[-2:])
    kernel = psf.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = kernel / kernel.sum(axis=(-2, -1), keepdims=True)
        moments = [np.einsum("mbyx,y,x->mb", kernel, *weights) for weights in ((y**2, x**0), (y**0, x**2), (y, x))]
        determinant: Array = np.maximum(moments[0] * moments[1] - moments[2] ** 2, 0)
        return _FWHM * determinant**0.25


def scaled_halves(values: Array) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Return values ``(m, B, Y, X)`` as float16 and the power of two ``(m, B)`` that they are to be multiplied by."""
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(values), np.abs(values), 0)
    most = finite.max(axis=(-2, -1), initial=1.0)
    scale = np.exp2(np.ceil(np.log2(most / _HALF)).clip(min=0)).astype(np.float32)
    return (values / scale[..., None, None]).astype(np.float16), scale


def _lists(values: Array, present: NDArray[np.bool_]) -> pa.Array:
    """Return ``values`` ``(m, ...)`` as lists of a fixed size, null in rows that are not ``present`` ``(n,)``."""
    mask = None
    if not present.all():
        whole = np.zeros((len(present), *values.shape[1:]), values.dtype)
        whole[present] = values
        values, mask = whole, pa.array(~present)
    flat = np.ascontiguousarray(values).reshape(-1)
    array: pa.Array = pa.array(flat)
    kind = array.type
    for size in reversed(values.shape[2:]):
        kind = pa.list_(pa.field("element", kind, nullable=False), int(size))
        array = pa.FixedSizeListArray.from_arrays(array, type=kind)
    kind = pa.list_(pa.field("element", kind, nullable=False), int(values.shape[1]))
    return pa.FixedSizeListArray.from_arrays(array, type=kind, mask=mask)
