"""Where a data module takes its targets and pixels from: a Butler repository, or an export with what it knows itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...plan.arguments import AngularSize, SizeLike, parse_bands, parse_size
from ...plan.read_options import ReadOptions
from ...plan.repository import as_names
from ...read.exports.export_description import ExportDescription
from ...read.exports.export_files import is_export, is_remote_export
from ...read.exports.plans import stored_channels, stored_size
from ...read.exports.remote_copy import local_export
from ...read.exports.stored_planes import check_stored
from ...read.options import ReaderOptions
from ...sky.geometry import YX
from .split_plans import PlanSettings

__all__ = ["DEFAULT_TYPE", "DataSource"]

DEFAULT_TYPE = "deep_coadd"
"""Dataset type of a data module; that of an export is the export's."""


@dataclass(frozen=True)
class DataSource:
    """Where targets and pixels come from; bands and size are parsed.

    Attributes
    ----------
    repo, collections, catalog, bands, size, dataset_type
        As in `CutoutDataModule`; of an export what it was made of, and no catalog.
    export
        Description of the export; None for a repository.
    """

    repo: str
    collections: str | Sequence[str]
    catalog: Any
    bands: tuple[str, ...]
    size: YX[int] | AngularSize
    dataset_type: str
    export: ExportDescription | None

    @classmethod
    def of(
        cls,
        repo: str,
        collections: str | Sequence[str] | None,
        catalog: Any,
        bands: str | Sequence[str] | None,
        size: SizeLike | None,
        dataset_type: str,
        plan: Any,
    ) -> "DataSource":
        """Return the source that arguments of a data module describe.

        Of an export its description is read, a small file; one on a server is copied to this machine first, once.

        Raises
        ------
        ConfigurationError
            If something is missing for a repository, or differs from an export.
        """
        if is_remote_export(repo):
            repo = str(local_export(repo))
        if is_export(repo):
            return cls._of_export(os.fspath(repo), collections, catalog, bands, size, dataset_type)
        given = {"collections": collections, "catalog": catalog if plan is None else plan, "bands": bands, "size": size}
        missing = [name for name, value in given.items() if value is None]
        if missing or collections is None or bands is None or size is None:
            raise ConfigurationError(
                f"repo={os.fspath(repo)!r} also needs {', '.join(f'{name}=' for name in missing)}; only the folder of a finished "
                "export, which lsstcutouts.export writes, needs nothing else"
            )
        return cls(repo, collections, catalog, parse_bands(bands), parse_size(size), dataset_type, None)

    @classmethod
    def _of_export(
        cls,
        repo: str,
        collections: str | Sequence[str] | None,
        catalog: Any,
        bands: str | Sequence[str] | None,
        size: SizeLike | None,
        dataset_type: str,
    ) -> "DataSource":
        export = ExportDescription.load(repo)
        if catalog is not None:
            raise ConfigurationError(
                f"catalog= is given together with the export {repo}, which has its own targets; leave catalog= out, and choose "
                "targets with select= of SplitOptions"
            )
        kind = export.dataset_type if dataset_type == DEFAULT_TYPE else dataset_type
        names = export.collections if collections is None else as_names(collections)
        for name, value, own in (
            ("collections", names, export.collections),
            ("dataset_type", kind, export.dataset_type),
        ):
            if value != own:
                raise ConfigurationError(
                    f"{name}={value!r}: the export {repo} is from {own!r}; leave {name}= out, or export again"
                )
        chosen = export.bands if bands is None else parse_bands(bands)
        stored_channels(repo, export, chosen)
        wanted = export.size if size is None else parse_size(size)
        if not isinstance(wanted, AngularSize):
            stored_size(repo, export, wanted)
        return cls(repo, export.collections, None, chosen, wanted, kind, export)

    def settings(self, read: ReadOptions, columns: tuple[str, ...]) -> PlanSettings:
        """Return what a plan depends on."""
        return PlanSettings(self.repo, self.collections, self.bands, self.size, self.dataset_type, read, columns)

    def check(self, options: ReaderOptions) -> None:
        """Raise `ConfigurationError` if options do not fit the bands, or need what the export does not have."""
        options.check_bands(self.bands)
        if self.export is not None:
            check_stored(self.repo, self.export, options)
