"""Rows of an export as examples of the Multimodal Universe's image type."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...errors import PlaneError

__all__ = ["array_of_lists", "multimodal_examples"]


def multimodal_examples(table: Any) -> Iterator[dict[str, Any]]:
    """Yield rows of an export that have pixels as examples of the Multimodal Universe.

    The image type is that of its ``scripts/hsc/hsc.py`` (github.com/MultimodalUniverse/MultimodalUniverse): ``image`` is a list
    with a dictionary for each band: ``band``, ``flux`` ``(Y, X)`` float32, ``ivar`` ``(Y, X)`` float32, ``mask`` ``(Y, X)`` bool
    (True for good pixels), ``psf_fwhm`` and ``scale`` in arcsec. All other columns that hold one value a row come along.

    Parameters
    ----------
    table
        A ``pyarrow.Table`` or a pandas ``DataFrame`` of rows of an export, such as LSDB computes.

    Raises
    ------
    PlaneError
        If the export has no ``flux``, or neither ``ivar`` nor both of ``variance`` and ``valid``.
    """
    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.filter(arrow["flux"].is_valid()) if "flux" in arrow.column_names else arrow
    names = set(arrow.column_names)
    if "flux" not in names or not ({"ivar"} <= names or {"variance", "valid"} <= names):
        raise PlaneError(
            "the Multimodal Universe's images need flux and ivar, which follow from the planes image, variance and valid; export"
            " them, and do not leave their columns out when you open the export"
        )
    found = _planes_of(arrow, ["flux", "ivar", "variance", "valid", "mask", "psf_fwhm", "scale"])
    flux = found["flux"]
    ivar = found["ivar"] if "ivar" in found else _inverse(found["variance"], found["valid"])
    mask = found.get("mask", ivar > 0)
    fwhm = found.get("psf_fwhm", np.full(flux.shape[:2], np.nan, np.float32))
    plain = [n for n in arrow.column_names if not pa.types.is_nested(arrow[n].type) and n != "object_id"]
    bands, ids = arrow["band"].to_pylist(), arrow["object_id"].to_pylist()
    others = arrow.select(plain).to_pylist()
    for n in range(len(flux)):
        images = [
            {
                "band": band,
                "flux": flux[n, b],
                "ivar": ivar[n, b],
                "mask": mask[n, b],
                "psf_fwhm": float(fwhm[n, b]),
                "scale": float(found["scale"][n, b]),
            }
            for b, band in enumerate(bands[n])
        ]
        yield {"image": images, "object_id": str(ids[n]), **others[n]}


def _planes_of(table: pa.Table, names: list[str]) -> dict[str, NDArray[Any]]:
    """Return columns of lists of fixed sizes as arrays ``(n, ...)``, those of the names that there are; scaled ones in full."""
    found = {name: array_of_lists(table[name]) for name in names if name in table.column_names}
    for name in {"flux", "variance"} & set(found):
        if f"{name}_scale" in table.column_names:
            scale = array_of_lists(table[f"{name}_scale"])
            found[name] = found[name].astype(np.float32) * scale[..., None, None]
    return found


def array_of_lists(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of lists of fixed sizes, none of them null, as an array ``(n, ...)``."""
    values, shape = column.combine_chunks(), [len(column)]
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def _inverse(variance: NDArray[Any], valid: NDArray[Any]) -> NDArray[np.float32]:
    good = valid & np.isfinite(variance) & (variance > 0)
    inverse: NDArray[np.float32] = np.zeros(variance.shape, np.float32)
    np.divide(np.float32(1), variance, out=inverse, where=good)
    return inverse
