"""The files of plans, kept open while they are read."""

import os
from collections import OrderedDict

from ..errors import CorruptFileError, LsstCutoutsError, ReadError
from ..fits.coadd import Coadd, open_coadd
from ..plan.cutout_plan import CutoutPlan
from ..sky.skymap import check_projection
from ..source.locks import ForkLock

__all__ = ["OpenFiles", "located", "place_of"]

_OPEN_FILES = 192
"""Number of files kept open: below the usual limit of 1024, above what sixteen blocks of six bands need."""


class OpenFiles:
    """Open coadds: each is opened at first use and checked against its tract; the least recently used are dropped.

    Pickles empty; may be shared by readers of several plans and by threads.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = ForkLock()
        self._open: OrderedDict[tuple[str, str], Coadd] = OrderedDict()

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[()]]:
        return OpenFiles, ()

    def get(self, plan: CutoutPlan, file: int, tract: int) -> Coadd:
        """Return the coadd in row ``file`` of the plan's files, which must lie on ``tract``.

        Raises
        ------
        ReadError
            If it cannot be opened.
        GeometryMismatchError
            If its pixel grid is not the tract's.
        """
        if self._process != os.getpid():
            self._start()  # the parent process still uses its handles and connections
        key = plan.files.dataset_id[file], plan.files.uri[file]  # a signed URL expires
        known = self._open
        with self._lock:
            coadd = known.get(key)
            if coadd is not None:
                known.move_to_end(key)
                return coadd
        # Opened outside the lock; when two threads open the same file the second handle is dropped.
        fresh = _opened(plan, file, tract)
        with self._lock:
            coadd = known.setdefault(key, fresh)
            while len(known) > _OPEN_FILES:
                # Not closed: another thread may be reading. The handle closes with its last reference.
                known.popitem(last=False)
        return coadd

    def close(self) -> None:
        """Drop every file; it closes when no other thread reads it any more. A later `get` opens it again.

        Takes no lock: the garbage collector may call this in the middle of `get`.
        """
        self._open = OrderedDict()


def place_of(plan: CutoutPlan, file: int) -> tuple[int, int, str]:
    """Return tract, patch and band of a file."""
    row, band = plan.patches.row_and_band[file].tolist()
    return int(plan.patches.tract[row]), int(plan.patches.patch[row]), plan.bands[band]


def located(error: ReadError, plan: CutoutPlan, file: int) -> ReadError:
    """Return the error with the tract, patch and band of its coadd."""
    tract, patch, band = place_of(plan, file)
    todo = 'restore the file, or continue without it: on_read_error="mask" or "skip"'
    return type(error)(f"{error} (tract {tract}, patch {patch}, band {band} of {plan.repo!r}); {todo}")


def _opened(plan: CutoutPlan, file: int, tract: int) -> Coadd:
    size = plan.files.size[file]
    coadd = open_coadd(plan.files.uri[file], size=size if size >= 0 else None, others=plan.files.uri)
    try:
        _check_identity(coadd, plan, file)
        _, patch, band = place_of(plan, file)
        what, whose = f"{coadd.uri} (patch {patch}, band {band})", f"tract {tract} of skymap {plan.skymap!r}"
        check_projection(coadd.projection, plan.projections[tract], coadd.bbox, what, whose)
    except LsstCutoutsError:
        coadd.close()
        raise
    return coadd


def _check_identity(coadd: Coadd, plan: CutoutPlan, file: int) -> None:
    """Raise `CorruptFileError` if the file belongs to another coadd, by its header or by its position on the tract."""
    row, band = plan.patches.row_and_band[file].tolist()
    wanted = {"tract": str(plan.patches.tract[row]), "patch": str(plan.patches.patch[row]), "band": plan.bands[band]}
    for name, value in wanted.items():
        if (says := coadd.data_id.get(name, value)) != value:
            raise CorruptFileError(
                f"{coadd.uri} is the file of another coadd: its header has {name} {says} instead of {value}; transfer the file again"
            )
    if (inner := plan.patches.inner_box(row)).intersection(coadd.bbox).is_empty:
        raise CorruptFileError(
            f"{coadd.uri} is the file of another coadd: its box {coadd.bbox} does not overlap the inner box {inner} of patch "
            f"{wanted['patch']}; transfer the file again"
        )
