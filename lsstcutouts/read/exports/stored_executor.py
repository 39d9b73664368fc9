"""Fills the cutouts of a batch from an export: each row is read at its place, straight into the batch."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError, ReadError
from ...fits.stages import StageClock
from ...plan.cutout_plan import CutoutPlan
from ...plan.quality import Outcome, Quality
from ...source.web.byte_parts import URGENT, Part, Rank
from ..batch_report import Failure
from ..cutouts import Cutouts, Empty
from ..options import ReaderOptions
from ..policies import apply_policies
from ..threads import Steps
from .export_description import ExportDescription
from .stored_columns import columns_of
from .stored_file import StoredFile
from .stored_files import StoredFiles
from .stored_planes import check_stored, needed_planes, stored_bits

__all__ = ["StoredExecutor"]

type Array = NDArray[Any]
type Ints = NDArray[np.int64]

_LEAST_ROWS = 16
"""Rows that a thread reads at a time."""

_UNREADABLE = "could not be read when it was exported"


class StoredExecutor:
    """Fills cutouts from an export; any number of threads may do the jobs.

    Parameters
    ----------
    plan
        Its pixels stand in an export.
    options
        What to read.
    clock
        Adds up where the time goes.

    Raises
    ------
    ConfigurationError
        If the export does not have what the options need.
    PlanError
        If there is no export any more.
    """

    def __init__(self, plan: CutoutPlan, options: ReaderOptions, clock: StageClock | None = None) -> None:
        if plan.pixels is None:
            raise PlanError("the plan is not that of an export")
        self._plan, self._options, self._clock, self._pixels = plan, options, clock, plan.pixels
        description = ExportDescription.load(self._pixels.folder)
        check_stored(self._pixels.folder, description, options)
        self._planes = needed_planes(description, options)
        columns = columns_of(description)
        self._scaled = description.dtype == "float16"
        self._cropped = self._pixels.size != plan.size
        evidence = [name for name in ("image", "variance", "valid", "mask") if name in columns] if self._cropped else []
        self._evidence = evidence
        wanted = [*self._planes, *evidence, "wcs", *(("psf_present",) if "psf" in self._planes else ())]
        wanted += [f"{name}_scale" for name in ("image", "variance") if self._scaled and name in wanted]
        self._columns = {name: columns[name] for name in dict.fromkeys(wanted)}
        self._files = StoredFiles(self._pixels, self._columns)
        names = options.mask_bits[:-1]
        self._bits = stored_bits(description, names)
        self._channels = np.array(self._pixels.channels)
        self._whole_bands = self._pixels.channels == tuple(range(len(description.bands)))
        self._run_of_bands = bool((np.diff(self._channels) == 1).all())
        policies = options.quality is not None or options.fill != 0.0 or options.missing_band == "nan"
        self._has_policies = policies or ("ivar" in options.planes and "ivar" not in self._planes)
        kept = Quality.BAND_ABSENT | Quality.PARTLY_COVERED | Quality.READ_ERROR
        self._kept_bits = int(kept | (Quality.NO_PSF if "psf" in self._planes else 0))

    def close(self) -> None:
        """Close every file; a later read opens them again."""
        self._files.close()

    def request(self, targets: Ints, rank: Rank) -> Steps[list[Part]]:  # noqa: ARG002
        """Ask for nothing: the files are local."""
        yield []
        return []

    def allocate(self, targets: Ints, empty: Empty) -> Cutouts:
        """Return arrays for targets ``(n,)``."""
        return Cutouts.allocated(self._plan, self._options, targets, empty, stored=self._planes)

    def fill(self, cutouts: Cutouts, threads: int, rank: Rank = URGENT) -> Steps[None]:  # noqa: ARG002
        """Fill all cutouts; yields what up to so many threads may do side by side."""
        pixels, targets = self._pixels, cutouts.targets
        cutouts.quality[:] = pixels.quality[targets] & self._kept_bits
        cutouts.present[:] = cutouts.quality & int(Quality.BAND_ABSENT) == 0
        self._note_unreadable(cutouts)
        stored = np.flatnonzero(pixels.outcome[targets] == Outcome.DELIVERED)
        if len(stored) < len(targets):
            self._clear(cutouts, np.setdiff1d(np.arange(len(targets)), stored))
        file, number = pixels.file[targets[stored]], pixels.number[targets[stored]]
        places = stored[np.lexsort((number, file))]
        fresh, ahead = self._files.begin(np.unique(file))
        if fresh:
            yield [partial(self._open, one, ahead=ahead) for one in fresh]
        step = max(_LEAST_ROWS, -(-len(places) // threads))
        yield [partial(self._read, cutouts, places[at : at + step]) for at in range(0, len(places), step)]

    def _note_unreadable(self, cutouts: Cutouts) -> None:
        """Note the pixels that could not be read when they were exported.

        Raises
        ------
        ReadError
            If the options do not say what to do with them.
        """
        for n, band in np.argwhere(cutouts.quality & int(Quality.READ_ERROR) != 0).tolist():
            target = int(cutouts.targets[n])
            name, outcome = self._plan.bands[band], self._pixels.outcome[target]
            tract, patch = int(self._plan.tract[target]), int(self._plan.patch[target])
            if self._options.on_read_error == "raise" and outcome == Outcome.DELIVERED:
                raise ReadError(
                    f"the export {self._pixels.folder}: a file of tract {tract}, patch {patch}, band {name} {_UNREADABLE}, so that target "
                    f"{self._plan.object_id[target]} lacks pixels; on_read_error='skip' leaves such targets out, 'mask' delivers them"
                )
            failure = Failure(self._pixels.folder, tract, patch, name, "", "ReadError", _UNREADABLE)
            cutouts.failures.append((failure, n))

    def _clear(self, cutouts: Cutouts, places: Ints) -> None:
        """Set targets that have no pixels to zero."""
        for array in (*cutouts.sources.values(), cutouts.valid):
            if array is not None:
                array[places] = 0

    def _open(self, file: int, *, ahead: bool) -> None:
        with self._timed("locate"):
            found = self._files.open(file)
            if ahead:
                found.read_ahead()

    def _read(self, cutouts: Cutouts, places: Ints) -> None:
        """Read targets ``(n,)`` that are sorted by file and number, and apply the policies to them."""
        pixels, targets = self._pixels, cutouts.targets[places]
        with self._timed("read"):
            file = pixels.file[targets]
            edges = [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(places)]
            for low, high in pairwise(edges):
                one = self._files.open(int(file[low]))
                self._read_file(cutouts, one, places[low:high], pixels.number[targets[low:high]].astype(np.int64))
        with self._timed("assemble"):
            if self._has_policies:
                for n in places.tolist():
                    apply_policies(cutouts, n, self._plan, self._options)

    def _read_file(self, cutouts: Cutouts, file: StoredFile, places: Ints, numbers: Ints) -> None:
        """Read rows of one file."""
        to: dict[str, Array | None] = {
            **cutouts.sources,
            "valid": cutouts.valid,
            "ivar": cutouts.ivar,
            "psf": cutouts.psf,
            "psf_present": cutouts.psf_present,
            "wcs": cutouts.wcs,
        }
        for plane, array in to.items():
            if (
                array is not None
                and plane in self._columns
                and (plane in self._planes or plane in {"psf_present", "wcs"})
            ):
                if self._is_direct(plane) and file.is_located(plane):
                    self._read_into(file, plane, array, places, numbers)
                else:
                    array[places] = self._rows(file, plane, numbers, cutouts, places)
        if "mask" in cutouts.sources and self._bits != tuple(range(len(self._bits))):
            stored = cutouts.sources["mask"][places]
            mask = np.zeros_like(stored)
            for bit, from_bit in enumerate(self._bits):
                mask |= (stored >> from_bit & 1) << bit
            cutouts.sources["mask"][places] = mask
        if self._cropped:
            cutouts.wcs[places, 2:4] -= self._pixels.corner[cutouts.targets[places], ::-1]
            self._look_at_borders(cutouts, file, places, numbers)

    def _is_direct(self, plane: str) -> bool:
        """Return whether the bytes of a row, or a run of its bands, are those of the batch."""
        if plane == "wcs":
            return True
        if self._columns[plane].bits == 1 or not self._run_of_bands:
            return False
        return plane == "psf" or not (self._cropped or (self._scaled and plane in {"image", "variance"}))

    def _read_into(self, file: StoredFile, plane: str, to: Array, places: Ints, numbers: Ints) -> None:
        """Read rows at their places straight into an array ``(N, ...)``."""
        width = to.nbytes // len(to)
        column = self._columns[plane]
        whole = column.values * column.bits // 8
        offsets = file.offsets(plane, numbers) // 8
        if plane != "wcs":
            offsets += int(self._channels[0]) * (whole // column.shape[0])
        file.fill(to, places * width, offsets, np.full(len(places), width))

    def _rows(self, file: StoredFile, plane: str, numbers: Ints, cutouts: Cutouts, places: Ints) -> Array:
        """Return rows ``(n, ...)`` of a plane for the bands and the box of the plan."""
        column = self._columns[plane]
        if not file.is_located(plane):
            rows = file.decoded(plane, numbers)
        elif column.bits == 1:
            rows = self._unpacked(file, plane, numbers)
        else:
            rows = np.empty((len(numbers), *column.shape), column.dtype)
            width = rows.nbytes // len(rows)
            widths = np.full(len(rows), width)
            file.fill(rows, np.arange(len(rows)) * width, file.offsets(plane, numbers) // 8, widths)
        if plane == "wcs":
            return rows
        if not self._whole_bands:
            rows = rows[:, self._channels]
        if self._cropped and not plane.startswith("psf") and not plane.endswith("_scale"):
            size = self._plan.size
            corners = self._pixels.corner[cutouts.targets[places]].tolist()
            rows = np.stack([row[:, y : y + size.y, x : x + size.x] for row, (y, x) in zip(rows, corners, strict=True)])
        if self._scaled and plane in {"image", "variance"}:
            scale = self._rows(file, f"{plane}_scale", numbers, cutouts, places)
            rows = rows.astype(np.float32) * scale[:, :, None, None]
        return rows

    def _unpacked(self, file: StoredFile, plane: str, numbers: Ints) -> NDArray[np.bool_]:
        """Return rows of a plane of booleans, which are packed across rows."""
        column = self._columns[plane]
        first = file.offsets(plane, numbers)
        ends = -(-(first + column.values) // 8)
        width = int((ends - first // 8).max(initial=0))
        packed = np.zeros((len(numbers), width), np.uint8)
        file.fill(packed, np.arange(len(packed)) * width, first // 8, ends - first // 8)
        bits = np.unpackbits(packed, axis=1, bitorder="little")
        shifts = first % 8
        if (shifts == 0).all():
            chosen = bits[:, : column.values]
        else:
            chosen = bits[np.arange(len(bits))[:, None], shifts[:, None] + np.arange(column.values)]
        return np.ascontiguousarray(chosen).view(np.bool_).reshape(len(numbers), *column.shape)

    def _look_at_borders(self, cutouts: Cutouts, file: StoredFile, places: Ints, numbers: Ints) -> None:
        """Find out which bands of a smaller box are covered in part, of those whose stored box is.

        Pixels that no file covers are 0 in every plane (or NaN in the image, with ``fill=nan``), and not valid.
        """
        bits = cutouts.quality[places] & int(Quality.PARTLY_COVERED | Quality.READ_ERROR)
        unsure = bits == int(Quality.PARTLY_COVERED)  # (n, B)
        some = np.flatnonzero(unsure.any(axis=1))
        if not len(some):
            return
        covered = np.zeros((len(some), len(self._plan.bands), *self._plan.size), bool)
        for plane in self._evidence:
            values = self._rows(file, plane, numbers[some], cutouts, places[some])
            covered |= (values != 0) & ~np.isnan(values) if plane == "image" else values != 0
        for at, n in enumerate(places[some].tolist()):
            for band in np.flatnonzero(unsure[some[at]]).tolist():
                here = covered[at, band]
                if here.any():
                    cutouts.quality[n, band] &= ~int(Quality.PARTLY_COVERED if here.all() else 0)
                    continue
                cutouts.quality[n, band] = Quality.BAND_ABSENT
                cutouts.present[n, band] = False
                for array in cutouts.sources.values():
                    array[n, band] = 0  # not NaN

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.rest(stage)
