"""Names of the files of an export, and which folders are exports; light, since the command's help needs it."""

import os
from pathlib import Path
from typing import Any

__all__ = ["CATALOG", "DESCRIPTION", "FILES", "FINISHED", "META", "is_export", "is_remote_export", "names_export"]

DESCRIPTION = "export.json"
"""File of the description in the folder of an export."""

FINISHED = "finished"
"""Folder of the plans of finished partitions of the catalog."""

FILES = "files.json"
"""File with the names and bytes of all files of a complete export, since a web server can't list them."""

CATALOG = "cutouts"
"""Folder of the HATS catalog."""

META = b"lsstcutouts.finished"
"""Key of the Parquet metadata of such a plan with what happened to the partition, as JSON."""


def is_export(folder: Any) -> bool:
    """Return whether a path is the folder of an export."""
    return isinstance(folder, str | os.PathLike) and "://" not in str(folder) and (Path(folder) / DESCRIPTION).is_file()


def is_remote_export(repo: Any) -> bool:
    """Return whether something is the URL of an export: one that ends in ``/export.json``."""
    return isinstance(repo, str) and "://" in repo and repo.rstrip("/").endswith(f"/{DESCRIPTION}")


def names_export(repo: Any) -> bool:
    """Return whether something is the folder or the URL of an export."""
    return is_export(repo) or is_remote_export(repo)
