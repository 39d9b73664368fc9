"""Decodes the tiles of a plan's files into the memory that the cache gave them: scaled to nJy, mask bits renumbered, damage told."""

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReadError
from ..errors.secrets import without_query
from ..fits.codecs import decode_tiles
from ..fits.decode import decode_units, read_together, streams_of
from ..fits.fused import RiceTiles, decode_fused, is_fused
from ..fits.index import FileIndex
from ..fits.intact_tiles import read_intact_tiles
from ..fits.plane_errors import PlaneErrors
from ..fits.stages import StageClock
from ..plan.cutout_plan import CutoutPlan
from ..source.byte_source import Scratch, Streams
from ..source.remote import HttpSource
from ..source.web.byte_parts import Part, Rank
from .batch_report import Failure
from .cache.tile_cache import Claim, TileCache, Wanted
from .masks import mask_hdus, renumbered
from .open_files import OpenFiles, located, place_of
from .options import ReaderOptions

__all__ = ["LostTile", "PlaneTiles", "TileDecoder"]

type Array = NDArray[Any]
type Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PlaneTiles:
    """Tiles of one plane of a file.

    Attributes
    ----------
    file
        Number of the file in the plan.
    plane
        ``image``, ``variance``, ``mask``, or ``psf``, whose tiles are the kernels of cells.
    index
        Index of the file.
    tiles
        ``(k,)`` numbers.
    rows, height, width
        ``(k,)`` how many rows of each are needed, from its first, and the pixels of each.
    requests
        How many copies are made from them.
    """

    file: int
    plane: str
    index: FileIndex
    tiles: Integers
    rows: Integers
    height: Integers
    width: Integers
    requests: int

    @property
    def fused(self) -> bool:
        """Whether the compiled kernel decodes them."""
        return self.plane not in {"mask", "psf"} and is_fused(self.index.layout(self.plane))


@dataclass(frozen=True, slots=True, eq=False)
class LostTile:
    """A tile that cannot be read, or not as a whole.

    Attributes
    ----------
    plane, position
        Which one: number of the `PlaneTiles`, and position in it.
    lost
        ``(Y, X)`` the pixels that are lost.
    failures
        Why.
    """

    plane: int
    position: int
    lost: NDArray[np.bool_]
    failures: tuple[Failure, ...]


class TileDecoder:
    """Decodes tiles of a plan's files; may be used from several threads.

    What cannot be read raises, or comes back as a `Failure` where the options say so.

    Parameters
    ----------
    plan
        Names the files.
    options
        What a file that cannot be read does, the unit of the flux, and the mask planes.
    cache, files
        Where decoded tiles and open files are kept.
    clock
        Adds up the time of reading and decoding.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        options: ReaderOptions,
        cache: TileCache,
        files: OpenFiles,
        clock: StageClock | None = None,
    ) -> None:
        self._plan, self._cache, self._files, self._clock = plan, cache, files, clock
        self._raises = options.on_read_error == "raise"
        self._options = options
        unit = "" if options.flux_unit == "nJy" else ":native"
        self._names = {
            "image": f"image{unit}",
            "variance": f"variance{unit}",
            "mask": "mask:" + ",".join(options.mask_bits),
            "psf": "psf",
        }

    def known(self, files: Iterable[int]) -> dict[int, FileIndex]:
        """Return the indices of those of the files that are in memory."""
        return self._files.known(self._plan, files, self._options)

    def open(self, file: int, rank: Rank | None = None) -> FileIndex | Failure:
        """Return the index of a file; ``rank`` and `NotHereError` as in `OpenFiles.index`."""
        tract = int(self._plan.patches.tract[self._plan.patches.row_and_band[file, 0]])
        try:
            with nullcontext() if self._clock is None else self._clock.time("locate"):
                return self._files.index(self._plan, file, tract, self._options, rank)
        except ReadError as error:
            return self.failure(error, file, "")

    def check(self, index: FileIndex, file: int, plane: str) -> Failure | None:
        """Return why a plane of a file, or its ``psf``, cannot be read; None if it can."""
        try:
            index.check(plane)
        except ReadError as error:
            return self.failure(error, file, plane)
        return None

    def wanted(self, planes: Sequence[PlaneTiles]) -> list[Wanted]:
        """Return what to claim of the cache."""
        return [
            Wanted(
                (self._plan.files.dataset_id[one.file], self._names[one.plane]),
                one.tiles,
                one.rows,
                *_count_and_bytes(one),
                one.requests,
            )
            for one in planes
        ]

    def request(self, planes: Sequence[PlaneTiles], absent: Sequence[Integers], rank: Rank) -> list[Part]:
        """Ask for the bytes of tiles of files on web servers.

        Parameters
        ----------
        planes
            Planes of files.
        absent
            Of each, the positions of the tiles that are not in memory, ``(a,)``.
        rank
            When they are asked for.

        Returns
        -------
        list of Part
            They hold the bytes as long as somebody refers to them.
        """
        extents: dict[int, list[tuple[Integers, Integers]]] = {}
        sources: dict[int, HttpSource] = {}
        for one, positions in zip(planes, absent, strict=True):
            if not len(positions):
                continue
            try:
                source = self._files.source(self._plan, one.file, one.index)
            except ReadError:  # decoding tells it
                continue
            if isinstance(source, HttpSource):
                sources[one.file] = source
                extents.setdefault(one.file, []).extend(_extents(one, one.tiles[positions]))
        parts: list[Part] = []
        for file, found in extents.items():
            offsets, sizes = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
            parts += sources[file].want(offsets, sizes, rank)
        return parts

    def decode(
        self, planes: Sequence[PlaneTiles], claim: Claim, parts: Sequence[tuple[int, Integers]]
    ) -> list[LostTile]:
        """Read and decode tiles.

        Parameters
        ----------
        planes
            What was claimed.
        parts
            What to decode: number of the plane, and positions among its tiles.
        """
        start = time.perf_counter()
        scratch, rice, failed = (
            Scratch(),
            list[tuple[int, Integers, RiceTiles]](),
            list[tuple[int, Integers, ReadError]](),
        )
        for i, at in (part for part in parts if planes[part[0]].fused):
            one = planes[i]
            layout, tiles = one.index.layout(one.plane), one.tiles[at]
            try:
                source = self._files.source(self._plan, one.file, one.index)
            except ReadError as error:
                failed.append((i, at, error))
                continue
            streams = streams_of(source, layout, tiles, scratch)
            rice.append((i, at, RiceTiles(layout, tiles, claim.rows(i)[at], streams, claim.addresses(i)[at])))
        errors = read_together([part.streams for _, _, part in rice])
        failed += [(i, at, error) for (i, at, _), error in zip(rice, errors, strict=True) if error is not None]
        rice = [one for one, error in zip(rice, errors, strict=True) if error is None]
        self._cache.note(read=sum(int(part.layout.sizes[part.tiles].sum()) for _, _, part in rice))
        middle = time.perf_counter()
        for (i, at, part), status in zip(rice, decode_fused([one for _, _, one in rice]) if rice else [], strict=True):
            for j in np.flatnonzero(status < 0).tolist():
                try:
                    status[j] = self._decode_plainly(planes[i], claim, i, int(at[j]), part.streams, j)
                except ReadError as error:
                    failed.append((i, at[[j]], error))
            good = status >= 0
            finite = status[good] == 0
            if (factor := _factor(planes[i])) != 1.0:
                finite = np.array([self._scale(planes[i], claim, i, j, factor) for j in at[good].tolist()], bool)
            claim.fill(i, at[good], finite)
        if self._clock is not None:
            self._clock.add("read", middle - start)
            self._clock.add("decode", time.perf_counter() - middle)
        for i, at in (part for part in parts if not planes[part[0]].fused):
            try:
                self._store(claim, i, at, self._decoded(planes[i], at))
            except ReadError as error:
                failed.append((i, at, error))
        return [lost for i, at, error in failed for lost in self._salvaged(planes[i], claim, i, at, error)]

    def failure(self, error: ReadError, file: int, plane: str) -> Failure:
        """Return what is to be told of an error, or raise it with the place of its file."""
        if self._raises:
            raise located(error, self._plan, file) from error
        tract, patch, band = place_of(self._plan, file)
        return Failure(
            without_query(self._plan.files.uri[file]),
            tract,
            patch,
            band,
            plane,
            type(error).__name__,
            str(error),
            error.transient,
        )

    def _decode_plainly(
        self, one: PlaneTiles, claim: Claim, i: int, position: int, streams: Streams, stream: int
    ) -> int:
        """Decode a tile that the kernel left; returns the status that the kernel would."""
        layout, tile = one.index.layout(one.plane), int(one.tiles[position])
        with PlaneErrors(one.index.uri, one.plane):
            box = layout.tiles_under(layout.unit_box(tile))
            pixels = decode_tiles(layout, box, [tile], [streams.view(stream)])
        claim.view(i, position, pixels.dtype, pixels.shape)[...] = pixels
        return 0 if _surely_finite(pixels) else 1

    def _scale(self, one: PlaneTiles, claim: Claim, i: int, position: int, factor: float) -> bool:
        """Scale a tile where it is; returns whether it is surely finite."""
        shape = int(claim.rows(i)[position]), int(one.width[position])
        pixels = claim.view(i, position, np.dtype(np.float32), shape)
        pixels[...] = _scaled(pixels, factor)
        return _surely_finite(pixels)

    def _store(self, claim: Claim, i: int, at: Integers, decoded: Sequence[Array]) -> None:
        """Put decoded tiles where they belong."""
        for position, pixels in zip(at.tolist(), decoded, strict=True):
            claim.view(i, position, pixels.dtype, pixels.shape)[...] = pixels
        claim.fill(i, at, np.array([_surely_finite(pixels) for pixels in decoded], bool))

    def _decoded(self, one: PlaneTiles, at: Integers) -> list[Array]:
        """Return tiles, decoded by the codecs."""
        source, index = self._files.source(self._plan, one.file, one.index), one.index
        units = one.tiles[at].tolist()
        if one.plane == "psf" and index.kernels is not None:
            with PlaneErrors(index.uri, "psf"):
                return list(index.kernels.read(source, units))
        planes: dict[str, list[Array]] = {}
        for plane in mask_hdus(index.mask_bits) if one.plane == "mask" else [one.plane]:
            layout = index.layout(plane)
            with PlaneErrors(index.uri, plane):
                planes[plane] = decode_units(source, layout, units, self._clock)
            self._cache.note(read=layout.bytes_of(units))
        if one.plane == "mask":
            return [
                renumbered({name: of[i] for name, of in planes.items()}, index.mask_bits) for i in range(len(units))
            ]
        return [_scaled(pixels, _factor(one)) for pixels in planes[one.plane]]

    def _salvaged(self, one: PlaneTiles, claim: Claim, i: int, at: Integers, error: ReadError) -> list[LostTile]:
        """Read what can be read of tiles, one by one; what is damaged is 0 in memory, and no other batch gets it."""
        failure = self.failure(error, one.file, one.plane)
        lost: list[LostTile] = []
        for position in at.tolist():
            if not failure.transient:  # the next tile would wait for as long in vain
                try:
                    self._store(claim, i, np.array([position]), self._decoded(one, np.array([position])))
                    continue
                except ReadError as again:
                    cause = again
            shape = int(one.height[position]), int(one.width[position])
            kind = np.dtype(np.int32 if one.plane == "mask" else np.float64 if one.plane == "psf" else np.float32)
            pixels, gone = np.zeros(shape, kind), np.ones(shape, bool)
            failures: tuple[Failure, ...] = (failure,)
            if not failure.transient and one.plane != "psf":
                try:
                    pixels, gone, errors = self._tile_by_tile(one, int(one.tiles[position]))
                    failures = tuple(self.failure(each, one.file, one.plane) for each in errors)
                except ReadError as again:
                    failures = (self.failure(again, one.file, one.plane),)
            elif not failure.transient:
                failures = (self.failure(cause, one.file, one.plane),)
            claim.view(i, position, kind, shape)[...] = pixels
            lost.append(LostTile(i, position, gone, failures))
        return lost

    def _tile_by_tile(self, one: PlaneTiles, unit: int) -> tuple[Array, NDArray[np.bool_], list[ReadError]]:
        source, index = self._files.source(self._plan, one.file, one.index), one.index
        if one.plane != "mask":
            pixels, gone, errors = read_intact_tiles(source, index.uri, index.layout(one.plane), unit)
            return _scaled(pixels, _factor(one)), gone, errors
        planes = mask_hdus(index.mask_bits)
        parts = {plane: read_intact_tiles(source, index.uri, index.layout(plane), unit) for plane in planes}
        gone = np.logical_or.reduce([part[1] for part in parts.values()])
        errors = [error for part in parts.values() for error in part[2]]
        return renumbered({name: part[0] for name, part in parts.items()}, index.mask_bits), gone, errors


def _extents(one: PlaneTiles, tiles: Integers) -> list[tuple[Integers, Integers]]:
    """Return offsets and sizes of the bytes of tiles of a plane; a mask may lie in several HDUs."""
    index = one.index
    if one.plane == "psf":
        return [] if index.kernels is None else [index.kernels.extents(tiles.tolist())]
    found = []
    for plane in mask_hdus(index.mask_bits) if one.plane == "mask" else [one.plane]:
        layout = index.layout(plane)
        numbers = layout.tiles_of(tiles)
        found.append((layout.offsets[numbers], layout.sizes[numbers].astype(np.int64)))
    return found


def _count_and_bytes(one: PlaneTiles) -> tuple[int, int]:
    """Return the tiles of a plane, and the bytes of a whole one."""
    if one.plane == "psf":
        kernels = one.index.kernels
        if kernels is None:
            raise ValueError("the index has no kernels")
        return kernels.cells.grid.y * kernels.cells.grid.x, 8 * kernels.layout.shape.y * kernels.layout.shape.x
    layout = one.index.layout(one.plane)
    return layout.units, 4 * layout.unit_shape.y * layout.unit_shape.x


def _factor(one: PlaneTiles) -> float:
    """Return what converts the image to nJy, the variance to nJy²."""
    return one.index.scale if one.plane == "image" else one.index.scale * one.index.scale


def _scaled(pixels: Array, factor: float) -> Array:
    return pixels if factor == 1.0 else np.multiply(pixels, factor, dtype=np.float64).astype(np.float32)


def _surely_finite(pixels: Array) -> bool:
    """Whether pixels are finite, by the sum of their squares: False as well where that overflows."""
    if pixels.dtype.kind != "f":
        return True
    flat = pixels.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.vdot(flat, flat)))
