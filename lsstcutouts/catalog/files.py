"""Opens a catalog of any supported kind: files, tables, coordinates, query results and mappings."""

import glob
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa

from ..errors import CatalogError
from .arrow import table_from_arrow, table_from_csv, table_from_pandas, table_from_parquet
from .astro import (
    degrees_icrs,
    table_from_astropy,
    table_from_ecsv,
    table_from_fits,
    table_from_query,
    table_from_votable,
)
from .columns import OpenTable, concatenate_tables, table_from_mapping
from .footprint import footprint_of
from .hats_table import is_hats, table_from_hats, table_from_lsdb

__all__ = ["files_of", "has_path", "hats_source", "is_lsdb", "is_skycoord", "open_table", "state_of"]

_PARQUET = (".parquet", ".parq", ".pq")

_READERS: dict[str, Callable[[Path], OpenTable]] = {
    **dict.fromkeys(_PARQUET, table_from_parquet),
    ".csv": table_from_csv,
    ".ecsv": table_from_ecsv,
    ".fits": table_from_fits,
    ".fits.gz": table_from_fits,
    ".fit": table_from_fits,
    ".vot": table_from_votable,
    ".votable": table_from_votable,
    ".xml": table_from_votable,
}


def open_table(source: Any, *, allow_overflow: bool = False) -> OpenTable:
    """Open a file or a table, or several of them as one table.

    Raises
    ------
    CatalogError
        If the kind is not supported, the file does not exist, or it cannot be read in the format of its suffix.
    """
    if (request := footprint_of(source)) is not None:
        raise CatalogError(f"{request}: only a plan of a repository draws its positions; give a catalog of rows here.")
    if (hats := hats_source(source)) is not None:
        return table_from_hats(hats)
    if is_lsdb(source):
        return table_from_lsdb(source)
    if isinstance(source, str | os.PathLike):
        files = files_of(source)
        parts = [_open_file(file, allow_overflow=allow_overflow) for file in files]
        return parts[0] if len(parts) == 1 else concatenate_tables(parts, os.fspath(source))
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        parts = [open_table(one, allow_overflow=allow_overflow) for one in source]
        if not parts:
            raise CatalogError("The catalog is an empty list; give at least one file.")
        return parts[0] if len(parts) == 1 else concatenate_tables(parts, f"{parts[0].label} and {len(parts) - 1} more")
    if is_skycoord(source):
        ra, dec = degrees_icrs(source)
        return table_from_mapping({"ra": ra, "dec": dec}, "SkyCoord")
    if hasattr(source, "votable") and hasattr(source, "to_table"):  # pyvo's results
        return table_from_query(source.votable, type(source).__name__, allow_overflow=allow_overflow)
    if _is_a(source, "astropy", "VOTableFile"):
        return table_from_query(source, "VOTableFile", allow_overflow=allow_overflow)
    if _is_a(source, "astropy", "Table"):
        return table_from_astropy(source)
    if _is_a(source, "pandas", "DataFrame"):
        return table_from_pandas(source)
    if hasattr(source, "__arrow_c_stream__"):
        return table_from_arrow(pa.table(source), f"{type(source).__module__.partition('.')[0]} table")
    if isinstance(source, Mapping):
        return table_from_mapping(source, "arrays")
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return table_from_mapping({name: source[name] for name in source.dtype.names}, "structured array")
    raise CatalogError(
        f"{type(source).__module__}.{type(source).__qualname__} cannot be read as a catalog; give a path, a list of paths,"
        " an astropy Table or SkyCoord, a pandas DataFrame, a pyarrow Table or a mapping of arrays, or use"
        " Catalog.from_arrays(ra, dec)."
    )


def is_skycoord(source: Any) -> bool:
    """Return whether an object is an astropy ``SkyCoord``."""
    return _is_a(source, "astropy", "SkyCoord")


def is_lsdb(source: Any) -> bool:
    """Return whether an object is a catalog of LSDB."""
    return _is_a(source, "lsdb", "HealpixDataset")


def hats_source(source: Any) -> Any:
    """Return what ``hats`` opens: a local folder that is a HATS catalog, a URL, or a catalog of ``hats``; None for others."""
    if any(_is_a(source, "hats", name) for name in ("HealpixDataset", "CatalogCollection")):
        return source
    if _is_a(source, "upath", "UPath") and source.protocol not in {"", "file", "local"}:
        return source
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    if _is_remote(text):
        return None if _suffix(Path(urlsplit(text).path)) in _READERS else text
    folder = _local_path(text)
    return str(folder) if folder.is_dir() and is_hats(folder) else None


def has_path(source: Any) -> bool:
    """Return whether a catalog is a dictionary of ``path`` and other arguments of `Catalog.from_any`."""
    return isinstance(source, Mapping) and isinstance(source.get("path"), str | os.PathLike)


def state_of(source: str | os.PathLike[str]) -> str:
    """Return text that differs for another catalog and, if it is local, for an earlier version of its files."""
    if (hats := hats_source(source)) is None:
        files = [path.absolute() for path in files_of(source)]
    elif _is_remote(os.fspath(source)):
        return os.fspath(source)
    else:
        files = sorted(path.absolute() for path in Path(hats).rglob("*") if path.is_file())
    states = [(path, path.stat() if path.exists() else None) for path in files]
    return "\n".join(f"{path} {state and (state.st_mtime_ns, state.st_size)}" for path, state in states)


def _is_remote(text: str) -> bool:
    return "://" in text and urlsplit(text).scheme != "file"


def _local_path(text: str) -> Path:
    url = urlsplit(text)
    return Path(unquote(url.path) if url.scheme == "file" and "://" in text else text).expanduser()


def files_of(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a path, a ``file://`` URL, a glob pattern or a folder of Parquet files, sorted by name.

    Raises
    ------
    CatalogError
        If it is another kind of URL, or no file matches.
    """
    text = os.fspath(source)
    if _is_remote(text):
        raise CatalogError(
            f"{text}: a catalog cannot be read from this kind of URL, except in HATS format; download the file first."
        )
    path = _local_path(text)
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - Path.glob refuses absolute ones
        if not found:
            raise CatalogError(f"{path}: no file matches this pattern; check the folder and the pattern.")
        return [file for one in found for file in (_parquet_files(one) if one.is_dir() else [one])]
    return _parquet_files(path) if path.is_dir() else [path]


def _parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder, except hidden files and the sample of rows (thumbnail) of a HATS catalog.

    Raises
    ------
    CatalogError
        If there is none, or the files are partitions of a HATS catalog.
    """
    below = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    seen = [path for path in below if not any(part.startswith((".", "_")) for part in path.parts)]
    if any(part.startswith("Norder=") for path in seen for part in path.parts):
        raise CatalogError(
            f"{folder}: this folder holds partitions (Norder=...) of a HATS catalog, but no hats.properties or"
            " collection.properties; give the folder that holds one of them, or copy the catalog again. Catalogs of the older"
            " HiPSCat format must be converted with hats-import."
        )
    files = [p for p in seen if _READERS.get(_suffix(p)) is table_from_parquet and p.name != "data_thumbnail.parquet"]
    if not files:
        others = f" but {', '.join(path.as_posix() for path in seen[:3])}" if seen else ""
        raise CatalogError(
            f"{folder}: this folder contains no Parquet file ({', '.join(_PARQUET)}){others}; give a file, or a pattern such"
            f" as {folder / '*.csv'}."
        )
    return [folder / file for file in files]


def _is_a(source: Any, package: str, name: str) -> bool:
    """Whether an object is an instance of a package's class, without importing the package."""
    return any(base.__name__ == name and base.__module__.split(".")[0] == package for base in type(source).__mro__)


def _open_file(path: Path, *, allow_overflow: bool) -> OpenTable:
    reader = _reader(path)
    if not path.exists():
        raise CatalogError(f"{path}: this file does not exist{_similar(path)}.")
    if reader is table_from_votable:
        reader = partial(table_from_votable, allow_overflow=allow_overflow)
    try:
        return reader(path)
    except CatalogError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, TypeError, ExpatError, zlib.error) as error:
        kind = _suffix(path).lstrip(".")
        raise CatalogError(
            f"{path}: the file cannot be read as {kind}: {type(error).__name__}: {error}. Check that the file is complete and"
            " that its suffix fits its format."
        ) from error


def _suffix(path: Path) -> str:
    """Return the suffix that determines the format, in lower case, with ``.gz`` included as in ``.fits.gz``."""
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last == ".gz" else last


def _reader(path: Path) -> Callable[[Path], OpenTable]:
    suffix = _suffix(path)
    if suffix not in _READERS:
        raise CatalogError(
            f"{path}: the suffix {suffix!r} is not a supported table format; give {', '.join(_READERS)}, or a folder of"
            " Parquet files."
        )
    if suffix == ".csv" and path.is_file():
        with path.open("rb") as file:
            if file.readline(16).startswith(b"# %ECSV"):
                return table_from_ecsv
    return _READERS[suffix]


def _similar(path: Path) -> str:
    """Return a hint about files with similar names in the same folder."""
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist)"
    close = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=3)
    return f" (did you mean {', '.join(close)}?)" if close else f" in {path.parent.resolve()}"
