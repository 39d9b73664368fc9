"""Fills the cutouts of a batch: which files, which tiles, decode, paste; each step for all bands and files at once."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fits.fused import is_fused
from ..fits.index import FileIndex
from ..fits.kernels import paste_rows
from ..fits.stages import StageClock
from ..fits.tile_tables import LEAST_UNIT_BYTES, UNIT_BYTES
from ..plan.cutout_plan import CutoutPlan
from ..sky.geometry import YX
from ..source.web.byte_parts import URGENT, Part, Rank
from ..source.web.process import web_of_process
from .batch_report import Failure
from .cache.tile_cache import Claim, TileCache
from .cell_psf import CellPsf
from .cutouts import Cutouts, Empty
from .depth import Depths
from .memory import address_of
from .needed import Grids, tiles_needed
from .options import ReaderOptions
from .policies import apply_policies
from .portion import Portion
from .threads import Again, Steps
from .tiles import LostTile, PlaneTiles, TileDecoder

__all__ = ["Executor"]

type Integers = NDArray[np.int64]

_LEAST_TILES, _MOST_TILES = 8, 48
"""Tiles that a thread decodes at a time: few enough that no thread waits long for the others, enough to be worth planning."""

_LEAST_TARGETS = 16
"""Targets that a thread pastes at a time."""

_MOST_AHEAD = 64_000_000
"""Bytes of files on web servers that are under way or wait to be read: three seconds of a link of 20 MB/s."""

_SHARE, _LEAST_BYTES = 8, 8_000_000
"""The tiles of a portion take this part of the cache's budget: two batches are under way, and theirs stay until they end."""


@dataclass(frozen=True, slots=True, eq=False)
class PlaneCopies:
    """Copies of one plane from the tiles of all files to the boxes of a portion.

    Attributes
    ----------
    plane
        Name of the plane.
    planes
        Which of the planes that are claimed hold the tiles.
    starts
        First tile of each of these among all, and their number in the end.
    width
        ``(T,)`` pixels of a row of each tile.
    channel
        ``(C,)`` channel of each copy in the portion, ascending.
    copies
        ``(C, 8)`` as in `TilesNeeded`, with channels of the batch.
    """

    plane: str
    planes: range
    starts: Integers
    width: Integers
    channel: Integers
    copies: Integers


_NAP = 0.005
"""Seconds after which is looked again whether more may be asked for."""


class Executor:
    """Fills cutouts from the files of a plan; any number of threads may do the jobs.

    Parameters
    ----------
    plan, options
        What to read.
    tiles
        Decodes tiles.
    cache
        Where they are kept.
    depths
        How many rows of a tile any target of the plan needs; None where tiles are decoded as a whole.
    clock
        Adds up where the time goes.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        options: ReaderOptions,
        tiles: TileDecoder,
        cache: TileCache,
        depths: Depths | None,
        clock: StageClock | None = None,
    ) -> None:
        self._plan, self._options, self._tiles, self._cache, self._depths = plan, options, tiles, cache, depths
        self._clock = clock
        self._bands = len(plan.bands)
        self._psf = CellPsf(tiles, normalise=options.normalise_psf) if "psf" in options.planes else None

    def request(self, targets: Integers, rank: Rank) -> Steps[list[Part]]:
        """Ask for the bytes that targets need and that are neither in memory nor in the disk cache.

        It waits while very many bytes are under way. Of a batch that needs so many alone, `fill` asks for the rest.

        Returns
        -------
        list of Part
            They hold the bytes as long as somebody refers to them.
        """
        cutouts = Cutouts.without_pixels(targets, len(self._plan.bands))
        held: list[Part] = []
        for portion in self._portions(targets):
            if sum(part.nbytes for part in held) > _MOST_AHEAD:
                break
            yield [_is_far_ahead]
            yield from portion.locate(rank)
            with self._assembling():
                planes, _, _ = self._planned(cutouts, portion)
                held += self._tiles.request(planes, self._cache.absent(self._tiles.wanted(planes)), rank)
        return held

    def allocate(self, targets: Integers, empty: Empty) -> Cutouts:
        """Return arrays for targets ``(n,)``."""
        return Cutouts.allocated(self._plan, self._options, targets, empty)

    def fill(self, cutouts: Cutouts, threads: int, rank: Rank = URGENT) -> Steps[None]:
        """Fill all cutouts; yields what up to so many threads may do side by side. Bytes that are not here are asked for."""
        for portion in self._portions(cutouts.targets):
            yield from portion.locate(rank)
            with self._assembling():
                portion.note_files(cutouts)
                planes, copies, kernels = self._planned(cutouts, portion)
            while True:
                held: list[Part] = []
                if self._plan.files.remote:
                    held = self._tiles.request(planes, self._cache.absent(self._tiles.wanted(planes)), rank)
                    yield [partial(_under_way, list(held))]
                claim = self._cache.claim(self._tiles.wanted(planes))
                try:
                    lost: list[LostTile] = []
                    yield [partial(self._decode, planes, claim, part, lost) for part in self._parts(claim, threads)]
                    held.clear()
                    claim.finish()
                    if claim.waits:
                        yield [claim.is_waiting]
                    if claim.lacks():
                        claim.end()
                        continue
                    with self._assembling():
                        self._lose(cutouts, copies, lost)
                        if self._psf is not None:
                            self._psf.paste(cutouts, claim, planes, kernels, lost)
                        tiles = [self._addresses(cutouts, claim, one) for one in copies]
                    missed = any(len(missing) for missing in claim.missing)
                    step = max(_LEAST_TARGETS, -(-len(portion) // (threads if missed else 1)))
                    yield [
                        partial(self._paste, cutouts, portion, claim, copies, tiles, slice(at, at + step))
                        for at in range(0, len(portion), step)
                    ]
                except GeneratorExit:
                    claim.abandon()  # a job may be under way: the claim ends with the last of them
                    raise
                except BaseException:  # Ctrl-C, too: others may wait for this claim; it is raised again
                    claim.end()
                    raise
                claim.end()
                break

    def _portions(self, targets: Integers) -> Iterator[Portion]:
        """Divide a batch into targets near each other whose tiles are a small part of the budget."""
        plan = self._plan
        near = np.lexsort((plan.yx0[targets, 1], plan.yx0[targets, 0], plan.primary[targets]))
        tile = plan.tile_shape
        if 4 * tile.y * tile.x < LEAST_UNIT_BYTES:  # such tiles are decoded in groups
            tile = YX(side := math.isqrt(UNIT_BYTES // 4), side)
        channel = 4 * (plan.size.y + tile.y) * (plan.size.x + tile.x)
        most = max(self._cache.max_bytes // _SHARE, _LEAST_BYTES) // (
            channel * self._bands * max(1, len(self._options.sources))
        )
        for places in np.array_split(near, max(1, -(-len(near) // max(1, most)))):
            yield Portion(plan, self._tiles, targets, places)

    def _planned(
        self, cutouts: Cutouts, portion: Portion
    ) -> tuple[list[PlaneTiles], list[PlaneCopies], dict[int, list[tuple[int, int, int]]]]:
        """Return what to read of a portion: tiles, copies, and the kernels of `CellPsf.add`."""
        planes, copies = self._needed(cutouts, portion)
        return planes, copies, {} if self._psf is None else self._psf.add(cutouts, portion, planes)

    def _needed(self, cutouts: Cutouts, portion: Portion) -> tuple[list[PlaneTiles], list[PlaneCopies]]:
        """Return the tiles of all planes and files that hold pieces, and the copies that bring them to the boxes."""
        pieces = portion.pieces
        planes: list[PlaneTiles] = []
        copies: list[PlaneCopies] = []
        for plane in self._options.sources:
            files: list[tuple[int, FileIndex]] = []
            for file in portion.files:
                if isinstance(index := portion.indices[file], Failure):
                    continue
                if (failure := self._tiles.check(index, file, plane)) is None:
                    files.append((file, index))
                else:
                    portion.lose(cutouts, file, failure)
            known = np.array([file for file, _ in files], np.int64)
            readable = slice(None) if len(files) == len(portion.files) else np.isin(pieces.file, known)
            layouts = [index.layout(plane) for _, index in files]
            needed = tiles_needed(
                portion.first,
                self._bands,
                pieces.channel[readable],
                np.searchsorted(known, pieces.file[readable]),
                pieces.area[readable],
                Grids(
                    _pairs([index.bbox.start for _, index in files]),
                    _pairs([layout.shape for layout in layouts]),
                    _pairs([layout.unit_shape for layout in layouts]),
                ),
            )
            starts = np.searchsorted(needed.file, np.arange(len(files) + 1))
            requests = np.bincount(needed.file[needed.copies[:, 0]], minlength=len(files)).tolist()
            first = len(planes)
            for i, (file, index) in enumerate(files):
                mine = slice(int(starts[i]), int(starts[i + 1]))
                tiles, height = needed.tile[mine], needed.height[mine]
                rows = self._rows(file, index, plane, tiles, height)
                planes.append(PlaneTiles(file, plane, index, tiles, rows, height, needed.width[mine], requests[i]))
            channel = needed.copies[:, 1].copy()
            needed.copies[:, 1] = portion.channels[channel]
            copies.append(PlaneCopies(plane, range(first, len(planes)), starts, needed.width, channel, needed.copies))
        return planes, copies

    def _rows(self, file: int, index: FileIndex, plane: str, tiles: Integers, height: Integers) -> Integers:
        """Return how many rows of tiles the plan's targets need: of a Rice tile the rest need not be decoded."""
        if self._depths is None or plane == "mask" or not is_fused(index.layout(plane)):
            return height
        patch = int(self._plan.patches.row_and_band[file, 0])
        rows = self._depths.rows(patch, index.bbox, index.layout(plane).unit_shape)[tiles]
        return np.minimum(rows, height)

    def _parts(self, claim: Claim, threads: int) -> list[list[tuple[int, Integers]]]:
        """Divide the tiles that are missing among threads."""
        total = sum(map(len, claim.missing))
        size = min(max(_LEAST_TILES, -(-total // (4 * threads))), _MOST_TILES)
        parts: list[list[tuple[int, Integers]]] = []
        room = 0
        for i, missing in enumerate(claim.missing):
            at = 0
            while at < len(missing):
                if not room:
                    parts.append([])
                    room = size
                parts[-1].append((i, missing[at : at + room]))
                at, room = at + len(parts[-1][-1][1]), room - len(parts[-1][-1][1])
        return parts

    def _decode(
        self, planes: Sequence[PlaneTiles], claim: Claim, part: Sequence[tuple[int, Integers]], lost: list[LostTile]
    ) -> None:
        lost.extend(self._tiles.decode(planes, claim, part))

    def _lose(self, cutouts: Cutouts, copies: Sequence[PlaneCopies], lost: Sequence[LostTile]) -> None:
        """Note which pixels of which cutouts come from tiles that cannot be read."""
        for tile in lost:
            for one in copies:
                if tile.plane not in one.planes:
                    continue
                number = int(one.starts[tile.plane - one.planes.start]) + tile.position
                for _, channel, *place, rows, columns in one.copies[one.copies[:, 0] == number].tolist():
                    y, x, from_y, from_x = place
                    gone = tile.lost[from_y : from_y + rows, from_x : from_x + columns]
                    n, band = divmod(channel, self._bands)
                    cutouts.suspect[n] = True
                    if gone.any():
                        cutouts.lose(n, band, (slice(y, y + rows), slice(x, x + columns)), gone, tile.failures)

    def _addresses(self, cutouts: Cutouts, claim: Claim, one: PlaneCopies) -> NDArray[np.uint64]:
        """Return where the tiles of a plane are, ``(T,)``, and note which cutouts may have pixels that are not finite."""
        if not one.planes:
            return np.empty(0, np.uint64)
        if one.plane == "image":
            finite = np.concatenate([claim.finite(i) for i in one.planes])
            if not finite.all():
                cutouts.suspect[one.copies[~finite[one.copies[:, 0]], 1] // self._bands] = True
        return np.concatenate([claim.addresses(i) for i in one.planes])

    def _paste(
        self,
        cutouts: Cutouts,
        portion: Portion,
        claim: Claim,
        copies: Sequence[PlaneCopies],
        tiles: Sequence[NDArray[np.uint64]],
        mine: slice,
    ) -> None:
        """Copy the pixels of some targets of a portion, and apply the policies to them."""
        with self._assembling():
            places = portion.places[mine]
            low, high = mine.start * self._bands, mine.start * self._bands + len(places) * self._bands
            channels = portion.channels[low:high][portion.cleared[low:high]]
            for array in cutouts.sources.values() if len(channels) else ():
                array.reshape(-1, *array.shape[2:])[channels] = 0
            if cutouts.covered is not None:
                portion.cover(cutouts.covered, low, high)
            for one, addresses in zip(copies, tiles, strict=True):
                first, last = np.searchsorted(one.channel, (low, high)).tolist()
                _copy(cutouts.sources[one.plane], one, one.copies[first:last], addresses, claim)
            for n in places.tolist():
                apply_policies(cutouts, n, self._plan, self._options)

    def _assembling(self) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.rest("assemble")


def _under_way(parts: list[Part]) -> Again:
    """Return what has to arrive first; the parts that have arrived are removed from the list."""
    while parts and parts[-1].future.done():
        parts.pop()
    return [parts[-1].future] if parts else False


def _is_far_ahead() -> bool:
    """Whether so many bytes are under way or wait to be read that no more should be asked for ahead of need."""
    far = web_of_process().held > _MOST_AHEAD
    if far:
        time.sleep(_NAP)
    return far


def _copy(to: NDArray[Any], one: PlaneCopies, copies: Integers, tiles: NDArray[np.uint64], claim: Claim) -> None:
    """Copy pixels from tiles to boxes ``(N, B, Y, X)``, without the interpreter lock."""
    if paste_rows is not None:
        paste_rows(copies, tiles, one.width, address_of(to), to.strides[1], to.strides[2])
        return
    flat = to.reshape(-1, *to.shape[2:])
    for tile, channel, y, x, from_y, from_x, rows, columns in copies.tolist():
        plane = int(np.searchsorted(one.starts, tile, side="right")) - 1
        shape = from_y + rows, int(one.width[tile])
        pixels = claim.view(one.planes.start + plane, tile - int(one.starts[plane]), to.dtype, shape)
        flat[channel, y : y + rows, x : x + columns] = pixels[from_y:, from_x : from_x + columns]


def _pairs(values: Sequence[tuple[int, int]]) -> Integers:
    return np.array(values, np.int64).reshape(-1, 2)
