"""From anything that a user may hand over to an opened table."""

import zlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa

from ..errors import CatalogError
from .arrow import source_from_arrow, source_from_csv, source_from_pandas, source_from_parquet
from .astro import source_from_astropy, source_from_ecsv, source_from_fits, source_from_votable
from .columns import Source, source_from_mapping

__all__ = ["open_source"]

_READERS: dict[str, Callable[[Path], Source]] = {
    ".parquet": source_from_parquet,
    ".parq": source_from_parquet,
    ".pq": source_from_parquet,
    ".csv": source_from_csv,
    ".ecsv": source_from_ecsv,
    ".fits": source_from_fits,
    ".fits.gz": source_from_fits,
    ".fit": source_from_fits,
    ".vot": source_from_votable,
    ".votable": source_from_votable,
    ".xml": source_from_votable,
}


def open_source(source: Any) -> Source:
    """Return a file or a table as a source.

    Raises
    ------
    CatalogError
        If it is of no known kind, is not there, or cannot be read as what its name says.
    """
    if isinstance(source, str | Path):
        return _open_file(Path(source).expanduser())
    if _is_a(source, "astropy", "Table"):
        return source_from_astropy(source)
    if _is_a(source, "pandas", "DataFrame"):
        return source_from_pandas(source)
    if hasattr(source, "__arrow_c_stream__"):
        return source_from_arrow(pa.table(source), f"{type(source).__module__.partition('.')[0]} table")
    if isinstance(source, Mapping):
        return source_from_mapping(source, "arrays")
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return source_from_mapping({name: source[name] for name in source.dtype.names}, "structured array")
    raise CatalogError(
        f"A catalog cannot be made from {type(source).__module__}.{type(source).__qualname__}; give a path, an astropy"
        " Table, a pandas DataFrame, a pyarrow Table, a mapping of arrays, or use Catalog.from_arrays(ra, dec)."
    )


def _is_a(source: Any, package: str, name: str) -> bool:
    """Tell whether an object is of a class of a package that need not be imported to know."""
    return any(base.__name__ == name and base.__module__.split(".")[0] == package for base in type(source).__mro__)


def _open_file(path: Path) -> Source:
    reader = _reader(path)
    if not path.exists():
        raise CatalogError(f"{path}: no such file{_similar(path)}.")
    if path.is_dir() and reader is not source_from_parquet:
        raise CatalogError(f"{path}: is a folder; give a file, or a folder named *.parquet that holds Parquet files.")
    try:
        return reader(path)
    except CatalogError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, TypeError, ExpatError, zlib.error) as error:
        kind = _suffix(path).lstrip(".")
        raise CatalogError(
            f"{path}: cannot be read as {kind}: {type(error).__name__}: {error}. Check that the file is complete and"
            " that its name ends in the suffix of its format."
        ) from error


def _suffix(path: Path) -> str:
    """Return the suffix that tells the format, lower case, ``.fits.gz`` as one."""
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last == ".gz" else last


def _reader(path: Path) -> Callable[[Path], Source]:
    suffix = _suffix(path)
    if suffix not in _READERS:
        raise CatalogError(
            f"{path}: the suffix {suffix!r} names no table format known here; known are {', '.join(_READERS)}."
        )
    if suffix == ".csv" and path.is_file() and _is_ecsv(path):
        return source_from_ecsv
    return _READERS[suffix]


def _is_ecsv(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(16).startswith(b"# %ECSV")


def _similar(path: Path) -> str:
    """Return a hint at files of similar names in the same folder."""
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    close = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=3)
    return f" (did you mean {', '.join(close)}?)" if close else f" in {path.parent.resolve()}"
