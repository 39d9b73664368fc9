"""Fills the cutouts of a batch: which files, which tiles, decode, paste; each step for all bands and files at once."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryMismatchError
from ..fits.fused import is_fused
from ..fits.index import FileIndex
from ..fits.kernels import paste_rows
from ..fits.stages import StageClock
from ..fits.tile_tables import LEAST_UNIT_BYTES, UNIT_BYTES
from ..plan.cutout_plan import CutoutPlan
from ..plan.quality import Quality
from ..sky.geometry import YX, Box, TanProjection
from .batch_report import Failure
from .cache.tile_cache import Claim, TileCache
from .cutouts import Cutouts
from .depth import Depths
from .memory import address_of
from .needed import Grids, Pieces, candidates_of, pieces_of, tiles_needed
from .options import ReaderOptions
from .policies import apply_policies
from .threads import Steps
from .tiles import LostTile, PlaneTiles, TileDecoder

__all__ = ["Executor"]

type Integers = NDArray[np.int64]
type Indices = dict[int, FileIndex | Failure]

_LEAST_TILES, _MOST_TILES = 8, 48
"""Tiles that a thread decodes at a time: few enough that no thread waits long for the others, enough to be worth planning."""

_LEAST_TARGETS = 16
"""Targets that a thread pastes at a time."""

_SHARE, _LEAST_BYTES = 8, 32_000_000
"""The tiles of a portion take this part of the cache's budget: two batches are under way, and theirs stay until they end."""


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """Targets of a batch that are read together; arrays of ``n``.

    Attributes
    ----------
    places
        Their places in the batch.
    targets
        Their numbers in the plan.
    first
        ``(n, 2)`` first pixel ``(y, x)`` of their boxes, tract pixels.
    channels
        ``(n * B,)`` number of each of their channels in the batch.
    """

    places: Integers
    targets: Integers
    first: Integers
    channels: Integers

    @classmethod
    def of(cls, plan: CutoutPlan, targets: Integers, places: Integers) -> "Portion":
        """Return a portion of the targets of a batch."""
        mine, bands = targets[places], len(plan.bands)
        channels = (places[:, None] * bands + np.arange(bands)).reshape(-1)
        return cls(places, mine, plan.yx0[mine].astype(np.int64), channels)


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

    def fill(self, cutouts: Cutouts, threads: int) -> Steps[None]:
        """Fill all cutouts; yields what up to so many threads may do side by side."""
        for portion in self._portions(cutouts.targets):
            indices: Indices = {}
            pieces = yield from self._located(portion, indices)
            with self._assembling():
                cleared = self._note_files(cutouts, portion, pieces, indices)
                planes, copies = self._needed(cutouts, portion, pieces, indices, cleared)
                kernels = self._kernels(cutouts, portion, pieces, indices, planes)
            while True:
                claim = self._cache.claim(self._tiles.wanted(planes))
                try:
                    lost: list[LostTile] = []
                    yield [partial(self._decode, planes, claim, part, lost) for part in self._parts(claim, threads)]
                    claim.finish()
                    if claim.waits:
                        yield [claim.is_waiting]
                    if claim.lacks():
                        claim.end()
                        continue
                    with self._assembling():
                        self._lose(cutouts, copies, lost)
                        self._paste_kernels(cutouts, claim, planes, kernels, lost)
                        tiles = [self._addresses(cutouts, claim, one) for one in copies]
                    missed = any(len(missing) for missing in claim.missing)
                    step = max(_LEAST_TARGETS, -(-len(portion.targets) // (threads if missed else 1)))
                    yield [
                        partial(
                            self._paste, cutouts, portion, pieces, cleared, claim, copies, tiles, slice(at, at + step)
                        )
                        for at in range(0, len(portion.targets), step)
                    ]
                except GeneratorExit:
                    raise  # a job may be under way: the claim ends with the last of them
                except BaseException:
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
            yield Portion.of(plan, targets, places)

    def _located(self, portion: Portion, indices: Indices) -> Steps[Pieces]:
        """Find which file gives which pixels; open those that are not known. What is known is put into ``indices``."""
        with self._assembling():
            candidates = candidates_of(self._plan, portion.targets)
        while True:
            with self._assembling():
                pieces = pieces_of(
                    portion.first, self._plan.size, self._bands, candidates, partial(self._pixels_of, indices)
                )
                files = {*pieces.file.tolist(), *candidates.files_of(~pieces.full)}
            if not (unknown := sorted(files - indices.keys())):
                return pieces
            yield [partial(self._open, indices, file) for file in unknown]

    def _open(self, indices: Indices, file: int) -> None:
        indices[file] = self._tiles.open(file)

    def _pixels_of(self, indices: Indices, file: int) -> Box:
        """Return the pixels that a file holds; of one that is not open, or cannot be, those that its like hold."""
        if file not in indices and (known := self._tiles.known(file)) is not None:
            indices[file] = known
        if isinstance(index := indices.get(file), FileIndex):
            return index.bbox
        inner = self._plan.patches.inner_box(int(self._plan.patches.row_and_band[file, 0]))
        border = self._plan.border
        return Box(inner.y0 - border.y, inner.y1 + border.y, inner.x0 - border.x, inner.x1 + border.x)

    def _note_files(self, cutouts: Cutouts, portion: Portion, pieces: Pieces, indices: Indices) -> NDArray[np.bool_]:
        """Note which channels have pixels, their WCS, and files that cannot be opened; returns the channels to clear."""
        some = np.zeros(len(portion.channels), bool)
        some[pieces.channel] = True
        cutouts.present.reshape(-1)[portion.channels] = some
        missing = np.where(some, int(Quality.PARTLY_COVERED), int(Quality.BAND_ABSENT))
        cutouts.quality.reshape(-1)[portion.channels] |= np.where(pieces.full, 0, missing).astype(np.int32)
        cleared = ~pieces.whole
        for file in np.unique(pieces.file).tolist():
            if isinstance(failure := indices[file], Failure):
                self._lose_pieces(cutouts, portion, pieces, pieces.file == file, failure, cleared)
        self._write_wcs(cutouts, portion, pieces, indices)
        return cleared

    def _lose_pieces(
        self,
        cutouts: Cutouts,
        portion: Portion,
        pieces: Pieces,
        which: NDArray[np.bool_],
        failure: Failure,
        cleared: NDArray[np.bool_],
    ) -> None:
        """Note that pieces cannot be read."""
        cleared[pieces.channel[which]] = True
        for channel, area in zip(pieces.channel[which].tolist(), pieces.area[which].tolist(), strict=True):
            place = Box(*area).slices(YX(*portion.first[channel // self._bands].tolist()))
            gone = np.ones((area[1] - area[0], area[3] - area[2]), bool)
            n, band = divmod(int(portion.channels[channel]), self._bands)
            cutouts.lose(n, band, place, gone, [failure])

    def _write_wcs(self, cutouts: Cutouts, portion: Portion, pieces: Pieces, indices: Indices) -> None:
        """Note the WCS of boxes: that of their patch's files, else that of the file that each took pixels from."""
        plan = self._plan
        patches, patch = np.unique(plan.primary[portion.targets], return_inverse=True)
        of_patch = [
            next((own for file in files if (own := _own_projection(indices.get(file))) is not None), None)
            for files in plan.patches.files[patches].tolist()
        ]
        tract = [plan.projections[tract] for tract in plan.patches.tract[patches].tolist()]
        numbers = [_wcs_numbers(own or other) for own, other in zip(of_patch, tract, strict=True)]
        wcs = np.array(numbers)[patch]
        for n in np.flatnonzero(np.array([own is None for own in of_patch])[patch]).tolist():
            mine = pieces.file[pieces.channel // self._bands == n].tolist()
            own = next((own for file in mine if (own := _own_projection(indices[file])) is not None), None)
            if own is not None:
                wcs[n] = _wcs_numbers(own)
        wcs[:, 2:4] -= portion.first[:, ::-1]
        cutouts.wcs[portion.places] = wcs

    def _needed(
        self, cutouts: Cutouts, portion: Portion, pieces: Pieces, indices: Indices, cleared: NDArray[np.bool_]
    ) -> tuple[list[PlaneTiles], list[PlaneCopies]]:
        """Return the tiles of all planes and files that hold pieces, and the copies that bring them to the boxes."""
        planes: list[PlaneTiles] = []
        copies: list[PlaneCopies] = []
        numbers = np.unique(pieces.file).tolist()
        for plane in self._options.sources:
            files: list[tuple[int, FileIndex]] = []
            for file in numbers:
                if isinstance(index := indices[file], Failure):
                    continue
                if (failure := self._tiles.check(index, file, plane)) is None:
                    files.append((file, index))
                else:
                    self._lose_pieces(cutouts, portion, pieces, pieces.file == file, failure, cleared)
            known = np.array([file for file, _ in files], np.int64)
            readable = np.isin(pieces.file, known)
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
        if self._plan.files.remote:
            size = max(1, -(-total // threads))  # one part a thread: each has requests under way
        else:
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
        pieces: Pieces,
        cleared: NDArray[np.bool_],
        claim: Claim,
        copies: Sequence[PlaneCopies],
        tiles: Sequence[NDArray[np.uint64]],
        mine: slice,
    ) -> None:
        """Copy the pixels of some targets of a portion, and apply the policies to them."""
        with self._assembling():
            places = portion.places[mine]
            low, high = mine.start * self._bands, mine.start * self._bands + len(places) * self._bands
            channels = portion.channels[low:high][cleared[low:high]]
            for array in cutouts.sources.values() if len(channels) else ():
                array.reshape(-1, *array.shape[2:])[channels] = 0
            if cutouts.covered is not None:
                self._cover(cutouts.covered, portion, pieces, low, high)
            for one, addresses in zip(copies, tiles, strict=True):
                first, last = np.searchsorted(one.channel, (low, high)).tolist()
                _copy(cutouts.sources[one.plane], one, one.copies[first:last], addresses, claim)
            for n in places.tolist():
                apply_policies(cutouts, n, self._plan, self._options)

    def _cover(self, covered: NDArray[np.bool_], portion: Portion, pieces: Pieces, low: int, high: int) -> None:
        """Note which pixels some file holds."""
        flat = covered.reshape(-1, *covered.shape[2:])
        flat[portion.channels[low:high]] = pieces.whole[low:high, None, None]
        some = np.flatnonzero((pieces.channel >= low) & (pieces.channel < high) & ~pieces.whole[pieces.channel])
        for channel, area in zip(pieces.channel[some].tolist(), pieces.area[some].tolist(), strict=True):
            start = YX(*portion.first[channel // self._bands].tolist())
            flat[portion.channels[channel]][Box(*area).slices(start)] = True

    def _kernels(
        self, cutouts: Cutouts, portion: Portion, pieces: Pieces, indices: Indices, planes: list[PlaneTiles]
    ) -> dict[int, list[tuple[int, int]]]:
        """Add the cells whose PSF is needed to the planes.

        Returns
        -------
        dict
            By number of the plane, for each of its cells in turn the channels that need it: ``(position, channel)``.
        """
        if "psf" not in self._options.planes:
            return {}
        pixel = self._pixels_at(portion.targets)[pieces.channel // self._bands]
        y, x = pixel.T
        y0, y1, x0, x1 = pieces.area.T
        holds = (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
        without = np.zeros(len(portion.channels), bool)
        without[pieces.channel] = True
        without[pieces.channel[holds]] = False
        wanted: dict[int, list[tuple[int, int]]] = {}
        for piece in np.flatnonzero(holds).tolist():
            file, channel = int(pieces.file[piece]), int(portion.channels[pieces.channel[piece]])
            index = indices[file]
            failure = index if isinstance(index, Failure) else self._tiles.check(index, file, "psf")
            if failure is not None:
                cutouts.fail(*divmod(channel, self._bands), [failure])
                continue
            kernels = index.kernels if isinstance(index, FileIndex) else None
            cell = -1 if kernels is None else kernels.cells.cell_at(*pixel[piece].tolist())
            if cell < 0:
                without[pieces.channel[piece]] = True
            else:
                wanted.setdefault(file, []).append((cell, channel))
        cutouts.quality.reshape(-1)[portion.channels[without]] |= int(Quality.NO_PSF)
        result: dict[int, list[tuple[int, int]]] = {}
        for file, cells in wanted.items():
            index = indices[file]
            if not isinstance(index, FileIndex) or index.kernels is None:
                continue
            tiles, position = np.unique([cell for cell, _ in cells], return_inverse=True)
            rows, columns = (np.full(len(tiles), side) for side in index.kernels.layout.shape)
            result[len(planes)] = [(at, channel) for at, (_, channel) in zip(position.tolist(), cells, strict=True)]
            planes.append(PlaneTiles(file, "psf", index, tiles, rows, rows, columns, len(cells)))
        return result

    def _pixels_at(self, targets: Integers) -> Integers:
        """Return the tract pixel nearest to each target, halves to even, as `lsst.images` chooses the cell."""
        plan = self._plan
        centre = plan.yx0[targets] + (np.asarray(plan.size) - 1) / 2 + plan.offset[targets].astype(np.float64)
        return np.rint(centre).astype(np.int64)

    def _paste_kernels(
        self,
        cutouts: Cutouts,
        claim: Claim,
        planes: Sequence[PlaneTiles],
        kernels: dict[int, list[tuple[int, int]]],
        lost: Sequence[LostTile],
    ) -> None:
        """Put the PSF of the file that gives the pixel at the target into each channel."""
        gone = {(tile.plane, tile.position): tile.failures for tile in lost}
        for i, channels in kernels.items():
            for position, channel in channels:
                n, band = divmod(channel, self._bands)
                if (i, position) in gone:
                    cutouts.fail(n, band, gone[i, position])
                    continue
                shape = int(planes[i].height[position]), int(planes[i].width[position])
                kernel = claim.view(i, position, np.dtype(np.float64), shape)
                if not np.isfinite(kernel).all():
                    cutouts.quality[n, band] |= Quality.NO_PSF
                elif cutouts.psf is not None and cutouts.psf_present is not None:
                    kernel = kernel / kernel.sum() if self._options.normalise_psf else kernel
                    _centred(cutouts.psf[n, band], kernel, planes[i].index.uri)
                    cutouts.psf_present[n, band] = True

    def _assembling(self) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.rest("assemble")


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


def _own_projection(index: FileIndex | Failure | None) -> TanProjection | None:
    """Return a file's own projection, exact where the tract's may be off by 1e-5 px.

    None for a file with distortions, which are below 0.01 px and not to be said in a cutout's eight numbers.
    """
    if isinstance(index, FileIndex) and isinstance(index.projection, TanProjection):
        return index.projection
    return None


def _wcs_numbers(projection: TanProjection) -> NDArray[np.float64]:
    """Return a projection as the eight numbers of a batch's ``wcs``."""
    return np.array([*projection.crval, *projection.crpix, *projection.cd])


def _centred(to: NDArray[np.float32], kernel: NDArray[Any], uri: str) -> None:
    """Put a kernel in the middle of a place that may be larger; all kernels have odd sides."""
    low = [(a - b) // 2 for a, b in zip(to.shape, kernel.shape, strict=True)]
    if min(low) < 0:
        raise GeometryMismatchError(
            f"{uri} has PSF kernels of {kernel.shape[0]} x {kernel.shape[1]} pixels, but other files of the plan have {to.shape[0]} x "
            f"{to.shape[1]}; make separate plans for them"
        )
    to[low[0] : low[0] + kernel.shape[0], low[1] : low[1] + kernel.shape[1]] = kernel
