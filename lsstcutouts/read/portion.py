"""Targets of a batch that are read together: their boxes, and which file gives which pixels."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..fits.index import FileIndex
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from ..sky.geometry import YX, Box, TanProjection
from ..source.web.byte_parts import NotHereError, Part, Rank
from .batch_report import Failure
from .cutouts import Cutouts
from .needed import Pieces, candidates_of, pieces_of
from .threads import Again, Steps
from .tiles import TileDecoder

__all__ = ["Portion"]

type Integers = NDArray[np.int64]


class Portion:
    """Some targets of a batch, ``n``, and the files under their boxes.

    Parameters
    ----------
    plan
        Has the targets.
    tiles
        Opens the files.
    targets
        All targets of the batch.
    places
        ``(n,)`` places of these among them.

    Attributes
    ----------
    first
        ``(n, 2)`` first pixel ``(y, x)`` of their boxes, tract pixels.
    channels
        ``(n * B,)`` number of each of their channels in the batch.
    indices
        The files, by their number in the plan, and why one cannot be read.
    pieces
        Which file gives which pixels, after `locate`.
    files
        The files that give pixels, ascending.
    cleared
        ``(n * B,)`` which channels are set to 0 first, as not every pixel comes from a file.
    """

    pieces: Pieces
    files: list[int]
    cleared: NDArray[np.bool_]

    def __init__(self, plan: CutoutPlan, tiles: TileDecoder, targets: Integers, places: Integers) -> None:
        self.plan, self._tiles, self.places = plan, tiles, places
        self.targets = targets[places]
        self.first = plan.yx0[self.targets].astype(np.int64)
        self._bands = len(plan.bands)
        self.channels: Integers = (places[:, None] * self._bands + np.arange(self._bands)).reshape(-1)
        self.indices: dict[int, FileIndex | Failure] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def locate(self, rank: Rank) -> Steps[None]:
        """Find which file gives which pixels; files that are not known are opened side by side.

        Parameters
        ----------
        rank
            When bytes of files on web servers are asked for.
        """
        candidates = candidates_of(self.plan, self.targets)
        self.indices |= self._tiles.known(set(candidates.file.tolist()))
        while True:
            self.pieces = pieces_of(self.first, self.plan.size, self._bands, candidates, self._pixels_of)
            self.files = sorted(set(self.pieces.file.tolist()))
            beyond = () if self.pieces.full.all() else candidates.files_of(~self.pieces.full)
            if not (unknown := sorted({*self.files, *beyond} - self.indices.keys())):
                self.cleared = ~self.pieces.whole
                return
            if self.plan.files.remote:
                yield [partial(self._open_those_here, dict.fromkeys(unknown, ()), rank)]
            else:
                yield [partial(self._open, file) for file in unknown]

    def _open(self, file: int) -> None:
        self.indices[file] = self._tiles.open(file)

    def _open_those_here(self, waiting: dict[int, Sequence[Part]], rank: Rank) -> Again:
        """Open the files whose headers have arrived, and ask for what the others need; returns what is waited for."""
        for file, parts in list(waiting.items()):
            if all(part.future.done() for part in parts):
                try:
                    self.indices[file] = self._tiles.open(file, rank)
                    del waiting[file]
                except NotHereError as error:
                    waiting[file] = [*parts, *error.parts]  # what has arrived must stay until the file is open
        return [part.future for parts in waiting.values() for part in parts if not part.future.done()] or bool(waiting)

    def _pixels_of(self, file: int) -> Box:
        """Return the pixels that a file holds; of one that is not open, those that its like hold."""
        if isinstance(index := self.indices.get(file), FileIndex):
            return index.bbox
        inner = self.plan.patches.inner_box(int(self.plan.patches.row_and_band[file, 0]))
        border = self.plan.border
        return Box(inner.y0 - border.y, inner.y1 + border.y, inner.x0 - border.x, inner.x1 + border.x)

    def note_files(self, cutouts: Cutouts) -> None:
        """Record which channels have pixels, their WCS, and files that do not open."""
        pieces = self.pieces
        some = np.zeros(len(self.channels), bool)
        some[pieces.channel] = True
        cutouts.present.reshape(-1)[self.channels] = some
        missing = np.where(some, int(Quality.PARTLY_COVERED), int(Quality.BAND_ABSENT))
        cutouts.quality.reshape(-1)[self.channels] |= np.where(pieces.full, 0, missing).astype(np.int32)
        for file in self.files:
            if isinstance(failure := self.indices[file], Failure):
                self.lose(cutouts, file, failure)
        self._write_wcs(cutouts)

    def lose(self, cutouts: Cutouts, file: int, failure: Failure) -> None:
        """Note that the pixels of a file cannot be read, all or those of one plane."""
        pieces, which = self.pieces, self.pieces.file == file
        self.cleared[pieces.channel[which]] = True
        for channel, area in zip(pieces.channel[which].tolist(), pieces.area[which].tolist(), strict=True):
            gone = np.ones((area[1] - area[0], area[3] - area[2]), bool)
            cutouts.lose(*self.place_of(channel), self._slices(channel, area), gone, [failure])

    def place_of(self, channel: int) -> tuple[int, int]:
        """Return place in the batch and band of a channel of the portion."""
        n, band = divmod(int(self.channels[channel]), self._bands)
        return n, band

    def _slices(self, channel: int, area: list[int]) -> tuple[slice, slice]:
        """Return rows and columns of an area in the box of a channel."""
        return Box(*area).slices(YX(*self.first[channel // self._bands].tolist()))

    def _write_wcs(self, cutouts: Cutouts) -> None:
        """Note the WCS of boxes: that of their patch's files, else that of the file that each took pixels from."""
        plan, pieces, indices = self.plan, self.pieces, self.indices
        patches, patch = np.unique(plan.primary[self.targets], return_inverse=True)
        of_patch = [
            next((own for file in files if (own := _own_projection(indices.get(file))) is not None), None)
            for files in plan.patches.files[patches].tolist()
        ]
        tract = [plan.projections[tract] for tract in plan.patches.tract[patches].tolist()]
        numbers = [(own or other).numbers for own, other in zip(of_patch, tract, strict=True)]
        wcs = np.array(numbers).reshape(-1, 8)[patch]  # (n, 8), also for no target
        for n in np.flatnonzero(np.array([own is None for own in of_patch], bool)[patch]).tolist():
            mine = pieces.file[pieces.channel // self._bands == n].tolist()
            own = next((own for file in mine if (own := _own_projection(indices[file])) is not None), None)
            if own is not None:
                wcs[n] = own.numbers
        wcs[:, 2:4] -= self.first[:, ::-1]
        cutouts.wcs[self.places] = wcs

    def cover(self, covered: NDArray[np.bool_], low: int, high: int) -> None:
        """Note which pixels of the channels from ``low`` to ``high`` some file holds, ``(N, B, Y, X)``."""
        pieces = self.pieces
        flat = covered.reshape(-1, *covered.shape[2:])
        flat[self.channels[low:high]] = pieces.whole[low:high, None, None]
        some = np.flatnonzero((pieces.channel >= low) & (pieces.channel < high) & ~pieces.whole[pieces.channel])
        for channel, area in zip(pieces.channel[some].tolist(), pieces.area[some].tolist(), strict=True):
            flat[self.channels[channel]][self._slices(channel, area)] = True


def _own_projection(index: FileIndex | Failure | None) -> TanProjection | None:
    """Return a file's own projection, exact where the tract's may be off by 1e-5 px.

    None for a file with distortions, which are below 0.01 px and not to be said in a cutout's eight numbers.
    """
    if isinstance(index, FileIndex) and isinstance(index.projection, TanProjection):
        return index.projection
    return None
