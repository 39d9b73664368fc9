"""Everything that can go wrong, in one tree.

Each class is also the built-in kind that a caller would catch without knowing this package, and says
whether trying again can help (``transient``)::

    LsstCutoutsError
    ├── ConfigurationError(ValueError)          an argument or setting that cannot work
    ├── CatalogError(ValueError)                the table of targets: columns, ids, an empty table
    │   └── CoordinateError                     positions that are not finite or out of range
    ├── RepositoryError(OSError)                the Butler repository as a whole
    │   ├── RepositoryNotFoundError(FileNotFoundError)
    │   ├── RepositoryUnavailableError(ConnectionError)  no answer now: trying again can help
    │   └── AuthenticationError(PermissionError)  it, or a file server, wants (other) credentials
    ├── CollectionError(LookupError)            no such collection, or none given
    ├── DatasetError(LookupError)               no such dataset type, or no dataset where one is needed
    ├── SkyMapError(LookupError)                no such skymap, or one whose geometry cannot be known
    ├── CoverageError(LookupError)              no target lies on any coadd
    ├── PlanError(ValueError)                   a plan file that is damaged or does not fit its use
    ├── LeakError(ValueError)                   splits of the targets that share pixels, where that is not allowed
    ├── ResumeError(ValueError)                 a place in an epoch that means other batches now
    ├── StatisticsError(ValueError)             statistics of pixels that are damaged, or do not fit their use
    ├── GeometryMismatchError(ValueError)       a file whose pixel grid is not the tract's
    ├── FluxUnitError(ValueError)               pixel values that cannot be turned into nJy
    ├── MissingBandError(LookupError)           a band that a target lacks, where that is not allowed
    ├── QualityError(ValueError)                a target that fails the quality policy, where that is not allowed
    ├── ReadError(OSError)                      a file that exists in the plan and cannot be read
    │   ├── MissingFileError(FileNotFoundError) the repository names it, the storage does not hold it
    │   ├── AccessDeniedError(PermissionError)  a file that this user may not read, while others can be read
    │   ├── CorruptFileError                    bytes that are not what the file's own structure says
    │   ├── UnsupportedFormatError              a FITS feature that no reader here knows
    │   └── TransientReadError                  a passing failure: trying again can help
    │       └── ReadTimeoutError(TimeoutError)
    ├── WriteError(OSError)                     a file that cannot be written, such as on a full disk
    ├── PlaneError(LookupError)                 a plane or mask plane that a file does not have
    ├── PixelMismatchError(AssertionError)      two ways of reading that give different pixels
    ├── WorkerError(RuntimeError)               a worker process that died, of a signal or by itself
    ├── MemoryBudgetError(MemoryError)          a budget that cannot be met on this machine
    └── DependencyError(ImportError)            an optional package that this call needs
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
    """Base of every exception that this package raises on purpose."""

    transient: ClassVar[bool] = False
    """Whether the same call can succeed when it is tried again."""


class ConfigurationError(LsstCutoutsError, ValueError):
    """An argument or a setting that cannot work."""


class CatalogError(LsstCutoutsError, ValueError):
    """A catalog that cannot be used as it is; the message names rows and columns."""


class CoordinateError(CatalogError):
    """Positions that are not finite or lie outside the sphere's ranges."""


class RepositoryError(LsstCutoutsError, OSError):
    """A Butler repository that cannot be opened or asked."""


class RepositoryNotFoundError(RepositoryError, FileNotFoundError):
    """No Butler repository where one was said to be."""


class AuthenticationError(RepositoryError, PermissionError):
    """A repository or file server that wants (other) credentials, or fresh signed URLs; no fault of a file."""


class RepositoryUnavailableError(RepositoryError, ConnectionError):
    """A repository, or its server, that gives no answer now."""

    transient = True


class CollectionError(LsstCutoutsError, LookupError):
    """A collection that the repository does not have, or none given where one is needed."""


class DatasetError(LsstCutoutsError, LookupError):
    """A dataset type or dataset that the repository does not have."""


class SkyMapError(LsstCutoutsError, LookupError):
    """A skymap that the repository does not have or whose geometry cannot be known."""


class CoverageError(LsstCutoutsError, LookupError):
    """Not one target lies on any coadd; the message says where the coverage is."""


class PlanError(LsstCutoutsError, ValueError):
    """A plan that is damaged, of another version, or does not fit what is asked of it."""


class LeakError(LsstCutoutsError, ValueError):
    """Splits of the targets that share pixels, where that is not allowed."""


class ResumeError(LsstCutoutsError, ValueError):
    """A place in an epoch, from a checkpoint, that means other batches now."""


class StatisticsError(LsstCutoutsError, ValueError):
    """Statistics of pixels that cannot be fitted, are damaged, or do not fit what is asked of them."""


class GeometryMismatchError(LsstCutoutsError, ValueError):
    """A file whose pixel grid is not the one of its tract."""


class FluxUnitError(LsstCutoutsError, ValueError):
    """Pixel values whose unit cannot be turned into nJy."""


class MissingBandError(LsstCutoutsError, LookupError):
    """A target lacks a band, and ``missing_band="raise"`` does not allow that."""


class QualityError(LsstCutoutsError, ValueError):
    """A target fails the quality policy, whose action is ``"raise"``."""


class ReadError(LsstCutoutsError, OSError):
    """A file that the repository holds and that cannot be read."""


class MissingFileError(ReadError, FileNotFoundError):
    """The repository names the file, the storage does not hold it."""


class AccessDeniedError(ReadError, PermissionError):
    """A file that this user may not read, or that S3 does not say is missing, while others can be read."""


class CorruptFileError(ReadError):
    """Bytes that are not what the file's own structure says."""


class UnsupportedFormatError(ReadError):
    """A FITS feature that neither the fast path nor the fallback can read."""


class TransientReadError(ReadError):
    """A read that failed for a passing reason, such as a time-out."""

    transient = True


class ReadTimeoutError(TransientReadError, TimeoutError):
    """A read that took longer than is allowed."""


class WriteError(LsstCutoutsError, OSError):
    """A file that cannot be written, such as on a full disk; what was written of it is removed."""


class PlaneError(LsstCutoutsError, LookupError):
    """A plane, or a named mask plane, that a file does not have."""


class PixelMismatchError(LsstCutoutsError, AssertionError):
    """Two ways of reading the same pixels that give different ones."""


class WorkerError(LsstCutoutsError, RuntimeError):
    """A worker process of a loader that died: killed, crashed or ended before its time."""


class MemoryBudgetError(LsstCutoutsError, MemoryError):
    """A memory budget that cannot be met on this machine."""


class DependencyError(LsstCutoutsError, ImportError):
    """An optional package that this call needs; the message says how to install it."""
