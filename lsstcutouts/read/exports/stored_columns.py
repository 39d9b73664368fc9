"""The columns of an export that hold planes: shape and type of a row, and their values in Arrow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...errors import CorruptFileError
from .export_description import PLANE_COLUMNS, ExportDescription

__all__ = ["StoredColumn", "columns_of"]


@dataclass(frozen=True)
class StoredColumn:
    """A column of an export.

    Attributes
    ----------
    name
        Of the column.
    shape
        Of a row.
    dtype
        Of a value, in NumPy's notation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def values(self) -> int:
        """Values of a row."""
        return int(np.prod(self.shape))

    @property
    def bits(self) -> int:
        """Bits of a value in the file."""
        return 1 if self.dtype == "?" else 8 * np.dtype(self.dtype).itemsize

    def fits(self, kind: pa.DataType) -> bool:
        """Return whether a type in Arrow is that of nested lists of a fixed size, of this shape and type."""
        for size in self.shape:
            if not pa.types.is_fixed_size_list(kind) or kind.list_size != size:
                return False
            kind = kind.value_type
        return bool(kind == pa.from_numpy_dtype(np.dtype(self.dtype)))

    def rows(self, column: Any, where: str) -> NDArray[Any]:
        """Return the rows ``(n, ...)`` of a column that are not null.

        Raises
        ------
        CorruptFileError
            If they have another shape or type; ``where`` is for the message.
        """
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        array = array.drop_null()
        count = len(array)
        for size in self.shape:
            kind = array.type
            lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
            if (
                not lists
                or array.null_count
                or (len(array) and pc.min_max(pc.list_value_length(array)).as_py() != {"min": size, "max": size})
            ):
                raise CorruptFileError(
                    f"{where}: the column {self.name!r} has {column.type}, not lists of {self.shape}; {_REMEDY}"
                )
            array = array.flatten()
        if array.null_count or array.type != pa.from_numpy_dtype(np.dtype(self.dtype)):
            raise CorruptFileError(
                f"{where}: the column {self.name!r} has values of {array.type}, not {self.dtype}, or lacks some; {_REMEDY}"
            )
        return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(count, *self.shape)


_REMEDY = "copy the export again, or export again"


def columns_of(description: ExportDescription) -> dict[str, StoredColumn]:
    """Return the columns of an export by plane, and those of what belongs to planes."""
    bands, size = len(description.bands), description.size
    image = "<f2" if description.dtype == "float16" else "<f4"
    types = {"image": image, "variance": image, "ivar": "<f4", "valid": "?", "mask": "<i4"}
    planes = {
        plane: StoredColumn(PLANE_COLUMNS[plane], (bands, size.y, size.x), types[plane])
        for plane in description.planes
        if plane in types
    }
    if description.dtype == "float16":
        planes |= {
            f"{plane}_scale": StoredColumn(f"{PLANE_COLUMNS[plane]}_scale", (bands,), "<f4")
            for plane in ("image", "variance")
            if plane in planes
        }
    if "psf" in description.planes and description.psf_shape is not None:
        planes["psf"] = StoredColumn("psf", (bands, *description.psf_shape), "<f4")
        planes["psf_present"] = StoredColumn("psf_present", (bands,), "?")
    return planes | {"wcs": StoredColumn("wcs", (8,), "<f8")}
