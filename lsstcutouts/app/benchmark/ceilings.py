"""What ours is measured against: decoding alone, copying alone, and tensors that lie ready in memory."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from ...fits.coadd import open_coadd
from ...fits.memory import Memory
from ...read.masks import places_of, renumbered
from ...read.reader import CutoutReader
from ...sky.geometry import YX
from .bare import Compressed, bare_decode, compressed_units, decoded
from .fields import Field
from .ours import consume
from .timing import MANY

__all__ = ["BareCopyWay", "BareDecodeWay", "Ceilings", "InMemoryWay"]

type Array = NDArray[Any]
type _Copy = tuple[str, int, Array, tuple[slice, slice]]
"""Plane, band, decoded plane of a file, and the box in it."""

_PART = 32
"""Boxes that a thread copies at a time, as many as ours."""


class Ceilings:
    """What the ceilings of one field share: compressed bytes, decoded planes, tensors."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.memory = Memory()

    @cached_property
    def compressed(self) -> list[Compressed]:
        """The tiles under the boxes, as they are in the files."""
        return compressed_units(self.field)

    @property
    def units(self) -> int:
        """Cache units under the boxes."""
        return sum(len(part.units) for part in self.compressed)

    @cached_property
    def planes(self) -> dict[tuple[int, int, str], Array]:
        """Whole planes by patch, band and name; where no box is they are zero, and take no memory."""
        made: dict[tuple[int, int, str], Array] = {}
        for part in self.compressed:
            key = part.patch, part.band, part.plane
            if key not in made:
                made[key] = np.zeros(part.layout.shape, part.layout.dtype)
            for unit, pixels in zip(part.units.tolist(), decoded(part, self.memory), strict=True):
                made[key][part.layout.unit_box(unit).slices()][: len(pixels)] = pixels
        return made

    @cached_property
    def origins(self) -> dict[int, YX[int]]:
        """First pixel of the files of each patch."""
        found = {}
        for patch, _, _, path in self.field.files():
            if patch not in found:
                with open_coadd(path) as coadd:
                    found[patch] = coadd.bbox.start
        return found

    def tensors(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Return the planes of targets."""
        reader = CutoutReader(self.field.plan, self.field.options)
        batch = reader.read(rows)
        reader.close()
        return tuple(torch.from_numpy(np.asarray(batch[name])) for name in self.field.scene.names)


class BareDecodeWay:
    """The codecs over exactly the tiles that the boxes touch, each once, their bytes already in memory."""

    name = "bare decode"
    most_runs = MANY

    def __init__(self, ceilings: Ceilings, threads: int) -> None:
        self._ceilings, self._threads = ceilings, threads

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the tiles."""
        return partial(self._run, self._ceilings.compressed)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets: those that the copies are cut from."""
        return BareCopyWay(self._ceilings, 1, 1).pixels(rows)

    def close(self) -> None:
        """Do nothing."""

    def _run(self, parts: Sequence[Compressed]) -> int:
        bare_decode(parts, self._threads, self._ceilings.memory)
        return len(self._ceilings.field.rows)


class BareCopyWay:
    """Each box copied from decoded planes into one array ``(batch, B, Y, X)`` that is there already."""

    name = "bare copy"
    most_runs = MANY

    def __init__(self, ceilings: Ceilings, threads: int, batch_size: int) -> None:
        self._ceilings, self._threads = ceilings, threads
        self._batch_size = min(batch_size, len(ceilings.field.rows))

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the boxes."""
        copies = self._copies(self._ceilings.field.rows)
        out = self._empty(self._batch_size)
        return partial(self._run, copies, out)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, as this package gives them."""
        out = self._empty(len(rows))
        _copy(self._copies(rows), out)
        image = out["image"]
        out["image"] = np.where(np.isfinite(image), image, np.float32(0))
        if "mask" in out:
            self._renumber(rows, out["mask"])
        return out

    def close(self) -> None:
        """Do nothing."""

    def _empty(self, count: int) -> dict[str, Array]:
        plan = self._ceilings.field.plan
        return {
            name: np.empty((count, len(plan.bands), *plan.size), np.int32 if name == "mask" else np.float32)
            for name in self._ceilings.field.scene.names
        }

    def _copies(self, rows: NDArray[np.int64]) -> list[list[_Copy]]:
        """Return for each target its planes and bands, the decoded plane, and the box in it."""
        field, planes, origins = self._ceilings.field, self._ceilings.planes, self._ceilings.origins
        found = []
        for row in rows.tolist():
            patch = int(field.plan.primary[row])
            at = field.box(row).slices(origins[patch])
            bands = range(len(field.plan.bands))
            found.append([(name, b, planes[patch, b, name], at) for name in field.scene.names for b in bands])
        return found

    def _run(self, copies: list[list[_Copy]], out: dict[str, Array]) -> int:
        starts = range(0, len(copies), self._batch_size)
        if self._threads == 1:
            for at in starts:
                _copy(copies[at : at + self._batch_size], out)
            return len(copies)
        with ThreadPoolExecutor(self._threads) as pool:
            for at in starts:
                batch = copies[at : at + self._batch_size]
                parts = range(0, len(batch), _PART)
                views = [{name: array[p : p + _PART] for name, array in out.items()} for p in parts]
                list(pool.map(_copy, [batch[p : p + _PART] for p in parts], views))
        return len(copies)

    def _renumber(self, rows: NDArray[np.int64], masks: Array) -> None:
        field = self._ceilings.field
        for patch, band, _, path in field.files():
            mine = np.flatnonzero(field.plan.primary[rows] == patch)
            with open_coadd(path) as coadd:
                masks[mine, band] = renumbered({"mask": masks[mine, band]}, places_of(coadd, field.mask_planes))


class InMemoryWay:
    """A `TensorDataset` of the same cutouts through a plain `DataLoader` with the same batch size and processes."""

    name = "in memory"
    most_runs = MANY

    def __init__(self, ceilings: Ceilings, *, shuffle: bool, workers: int, batch_size: int) -> None:
        self._ceilings, self._shuffle, self._workers, self._batch_size = ceilings, shuffle, workers, batch_size
        self._kept: DataLoader[Any] | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the cutouts."""
        if self._kept is None:
            workers = {"persistent_workers": True, "multiprocessing_context": "forkserver"} if self._workers else {}
            self._kept = DataLoader(
                TensorDataset(*self._ceilings.tensors(self._ceilings.field.rows)),
                batch_size=self._batch_size,
                shuffle=self._shuffle,
                num_workers=self._workers,
                **workers,  # type: ignore[arg-type]
            )
            consume(self._kept)
        return partial(consume, self._kept)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets."""
        loader = DataLoader(TensorDataset(*self._ceilings.tensors(rows)), batch_size=len(rows))
        return dict(zip(self._ceilings.field.scene.names, (t.numpy() for t in next(iter(loader))), strict=True))

    def close(self) -> None:
        """Let worker processes end."""
        self._kept = None


def _copy(copies: Sequence[Sequence[_Copy]], out: Mapping[str, Array]) -> None:
    for n, target in enumerate(copies):
        for name, band, plane, at in target:
            out[name][n, band] = plane[at]
