"""The exceptions of this package, in one tree.

Each class also derives from the built-in exception that a caller would catch without knowing this package. The
attribute ``transient`` says whether a retry can succeed::

    LsstCutoutsError
    ├── ConfigurationError(ValueError)          an argument or setting is invalid
    ├── CatalogError(ValueError)                the catalog is invalid: a column, an id, no rows
    │   ├── CoordinateError                     a position is not finite or out of range
    │   └── EmptyCatalogError                   no row meets select= and cone=, or there is none
    ├── RepositoryError(OSError)                the Butler repository cannot be opened or queried
    │   ├── RepositoryNotFoundError(FileNotFoundError)
    │   ├── RepositoryUnavailableError(ConnectionError)  no answer now: a retry can succeed
    │   └── AuthenticationError(PermissionError)  the repository or a file server refuses the credentials
    ├── CollectionError(LookupError)            the collection does not exist, or none is given
    ├── DatasetError(LookupError)               the dataset type or the dataset does not exist
    ├── SkyMapError(LookupError)                the skymap does not exist, or its geometry is unknown
    ├── CoverageError(LookupError)              no target lies on any coadd
    ├── PlanError(ValueError)                   the plan file is damaged or does not fit its use
    ├── LeakError(ValueError)                   splits share pixels, and that is not allowed
    ├── ResumeError(ValueError)                 a checkpoint cannot be resumed with these settings
    ├── StatisticsError(ValueError)             the pixel statistics are damaged or do not fit their use
    ├── GeometryMismatchError(ValueError)       the pixel grid of a file is not that of its tract
    ├── FluxUnitError(ValueError)               pixel values cannot be converted to nJy
    ├── MissingBandError(LookupError)           a target lacks a band, and that is not allowed
    ├── QualityError(ValueError)                a target fails the quality policy, and that is not allowed
    ├── ReadError(OSError)                      a file of the plan cannot be read
    │   ├── MissingFileError(FileNotFoundError) the repository lists the file, but the storage does not have it
    │   ├── AccessDeniedError(PermissionError)  the user may not read this file, but can read others
    │   ├── CorruptFileError                    the bytes contradict the structure of the file
    │   ├── UnsupportedFormatError              the file uses a FITS feature that this package cannot read
    │   └── TransientReadError                  a temporary failure: a retry can succeed
    │       └── ReadTimeoutError(TimeoutError)
    ├── WriteError(OSError)                     a file cannot be written, for example on a full disk
    ├── PlaneError(LookupError)                 a file does not have the plane or mask plane
    ├── PixelMismatchError(AssertionError)      two readers return different pixels
    ├── WorkerError(RuntimeError)               a worker process or the scheduler of Dask ended unexpectedly
    ├── MemoryBudgetError(MemoryError)          the machine cannot meet the memory budget
    └── DependencyError(ImportError)            an optional package is not installed
"""

from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "AuthenticationError",
    "CatalogError",
    "CollectionError",
    "ConfigurationError",
    "CoordinateError",
    "CorruptFileError",
    "CoverageError",
    "DatasetError",
    "DependencyError",
    "EmptyCatalogError",
    "FluxUnitError",
    "GeometryMismatchError",
    "LeakError",
    "LsstCutoutsError",
    "MemoryBudgetError",
    "MissingBandError",
    "MissingFileError",
    "PixelMismatchError",
    "PlanError",
    "PlaneError",
    "QualityError",
    "ReadError",
    "ReadTimeoutError",
    "RepositoryError",
    "RepositoryNotFoundError",
    "RepositoryUnavailableError",
    "ResumeError",
    "SkyMapError",
    "StatisticsError",
    "TransientReadError",
    "UnsupportedFormatError",
    "WorkerError",
    "WriteError",
]


class LsstCutoutsError(Exception):
    """Base class of every exception that this package raises."""

    transient: ClassVar[bool] = False
    """Whether a retry of the same call can succeed."""


class ConfigurationError(LsstCutoutsError, ValueError):
    """An argument or a setting is invalid."""


class CatalogError(LsstCutoutsError, ValueError):
    """The catalog is invalid; the message names rows and columns."""


class CoordinateError(CatalogError):
    """A position is not finite, or its RA or Dec is out of range."""


class EmptyCatalogError(CatalogError):
    """The catalog has no rows, or none that meets ``select`` and ``cone``."""


class RepositoryError(LsstCutoutsError, OSError):
    """A Butler repository cannot be opened or queried."""


class RepositoryNotFoundError(RepositoryError, FileNotFoundError):
    """There is no Butler repository at this path, URL or label."""


class AuthenticationError(RepositoryError, PermissionError):
    """A repository or file server needs credentials, other credentials or new signed URLs; no file is at fault."""


class RepositoryUnavailableError(RepositoryError, ConnectionError):
    """A repository, or its server, does not answer now."""

    transient = True


class CollectionError(LsstCutoutsError, LookupError):
    """The repository does not have the collection, or no collection is given."""


class DatasetError(LsstCutoutsError, LookupError):
    """The repository does not have the dataset type or the dataset."""


class SkyMapError(LsstCutoutsError, LookupError):
    """The repository does not have the skymap, or the geometry of the skymap cannot be determined."""


class CoverageError(LsstCutoutsError, LookupError):
    """No target lies on any coadd; the message says which area the coadds cover."""


class PlanError(LsstCutoutsError, ValueError):
    """A plan is damaged, has another format version, or does not fit its use."""


class LeakError(LsstCutoutsError, ValueError):
    """Two splits share pixels, and ``leaks="raise"`` does not allow that."""


class ResumeError(LsstCutoutsError, ValueError):
    """Training cannot resume: the position of the checkpoint means other batches with these settings."""


class StatisticsError(LsstCutoutsError, ValueError):
    """Pixel statistics cannot be fitted, are damaged, or do not fit their use."""


class GeometryMismatchError(LsstCutoutsError, ValueError):
    """The pixel grid of a file is not the pixel grid of its tract."""


class FluxUnitError(LsstCutoutsError, ValueError):
    """The unit of pixel values cannot be converted to nJy."""


class MissingBandError(LsstCutoutsError, LookupError):
    """A target lacks a band, and ``missing_band="raise"`` does not allow that."""


class QualityError(LsstCutoutsError, ValueError):
    """A target fails the quality policy, whose action is ``"raise"``."""


class ReadError(LsstCutoutsError, OSError):
    """A file that the repository lists cannot be read."""


class MissingFileError(ReadError, FileNotFoundError):
    """The repository lists the file, but the storage does not have it."""


class AccessDeniedError(ReadError, PermissionError):
    """The user may not read this file, but can read others; S3 may also refuse a file that is missing."""


class CorruptFileError(ReadError):
    """The bytes of a file contradict its structure: it is damaged or truncated."""


class UnsupportedFormatError(ReadError):
    """The file uses a FITS feature that neither the fast path nor the fallback can read."""


class TransientReadError(ReadError):
    """A read failed for a temporary reason, such as a lost connection."""

    transient = True


class ReadTimeoutError(TransientReadError, TimeoutError):
    """A read took longer than the time limit."""


class WriteError(LsstCutoutsError, OSError):
    """A file cannot be written, for example on a full disk; the incomplete file is removed."""


class PlaneError(LsstCutoutsError, LookupError):
    """A file does not have the plane, or the named mask plane."""


class PixelMismatchError(LsstCutoutsError, AssertionError):
    """Two readers return different values for the same pixels."""


class WorkerError(LsstCutoutsError, RuntimeError):
    """A worker process of a loader, or the scheduler of Dask, was killed, crashed or ended too early."""


class MemoryBudgetError(MemoryError, LsstCutoutsError):
    """The machine cannot meet the memory budget."""

    # MemoryError has a constructor of its own. If it came second, `__new__` of this class would refuse to be called, as Dask's
    # pickling does.


class DependencyError(LsstCutoutsError, ImportError):
    """An optional package that this call needs is not installed; the message says how to install it."""
