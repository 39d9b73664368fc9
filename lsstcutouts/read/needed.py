"""Which file gives each pixel of a batch, and which tiles hold them: arithmetic on arrays, without a file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan.cutout_plan import CutoutPlan
from ..sky.geometry import YX, Box

__all__ = ["Candidates", "Grids", "Pieces", "TilesNeeded", "candidates_of", "pieces_of", "tiles_needed"]

type Integers = NDArray[np.int64]

_ANYWHERE = -(1 << 40), 1 << 40, -(1 << 40), 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Files that may hold pixels of the channels of boxes; arrays ``(K,)``, sorted by channel and precedence.

    Attributes
    ----------
    channel
        Number of the channel, ``target * B + band``.
    file
        Number of the file.
    region
        ``(K, 4)`` pixels ``(y0, y1, x0, x1)`` of the tract in which the file counts.
    """

    channel: Integers
    file: Integers
    region: Integers

    def files_of(self, channels: NDArray[np.bool_]) -> list[int]:
        """Return the files for some channels, ``(N * B,)`` bool."""
        files: list[int] = np.unique(self.file[channels[self.channel]]).tolist()
        return files


def candidates_of(plan: CutoutPlan, targets: Integers) -> Candidates:
    """Return the files for targets ``(N,)`` of a plan.

    The file of the primary patch comes first, then those of the other patches inside their inner regions, then the rest of
    these files; patches by their number.
    """
    count, bands = len(targets), len(plan.bands)
    many = plan.others_start[targets + 1] - plan.others_start[targets]
    owner = np.repeat(np.arange(count), many)
    at = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(plan.others_start[targets], many)
    others = plan.others[at]
    patch = np.concatenate([plan.primary[targets].astype(np.int64), others, others])
    target = np.concatenate([np.arange(count), owner, owner])
    region = np.empty((len(patch), 4), np.int64)
    region[:] = _ANYWHERE
    region[count : count + len(others)] = plan.patches.inner[others]
    channel = (target[:, None] * bands + np.arange(bands)).reshape(-1)
    file = plan.patches.files[patch].reshape(-1)
    rows = np.flatnonzero(file >= 0)
    if len(others):
        rows = rows[np.argsort(channel[rows], kind="stable")]
    return Candidates(channel[rows], file[rows], region[rows // bands])


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Disjoint parts of the channels of boxes, each from one file; arrays ``(P,)``, sorted by channel.

    Attributes
    ----------
    channel, file
        As in `Candidates`.
    area
        ``(P, 4)`` pixels ``(y0, y1, x0, x1)`` of the tract.
    whole
        ``(N * B,)`` whether one piece is the whole box.
    full
        ``(N * B,)`` whether every pixel of the box is in a piece.
    """

    channel: Integers
    file: Integers
    area: Integers
    whole: NDArray[np.bool_]
    full: NDArray[np.bool_]


def pieces_of(
    first: Integers, size: YX[int], bands: int, candidates: Candidates, pixels_of: Callable[[int], Box]
) -> Pieces:
    """Divide boxes among the files: each pixel comes from the first candidate that holds it in its region.

    Parameters
    ----------
    first
        ``(N, 2)`` first pixel ``(y, x)`` of each box, tract pixels.
    size, bands
        Pixels of a box, and its channels.
    candidates
        The files for the boxes.
    pixels_of
        Returns the pixels that a file holds. Asked only for files that are looked at.
    """
    boxes = np.empty((len(first), 4), np.int64)
    boxes[:, 0::2], boxes[:, 1::2] = first, first + np.asarray(size)
    whole = np.zeros(len(first) * bands, bool)
    heads = np.flatnonzero(np.diff(candidates.channel, prepend=-1))
    files, place = np.unique(candidates.file[heads], return_inverse=True)
    holds = np.array([pixels_of(file) for file in files.tolist()], np.int64).reshape(-1, 4)[place]
    wanted, region = boxes[candidates.channel[heads] // bands], candidates.region[heads]
    inside = ((wanted >= holds) & (wanted >= region))[:, 0::2].all(axis=1)
    inside &= ((wanted <= holds) & (wanted <= region))[:, 1::2].all(axis=1)
    whole[candidates.channel[heads[inside]]] = True
    full = whole.copy()
    torn: list[tuple[int, int, tuple[int, int, int, int]]] = []
    ends = np.append(heads, len(candidates.file))[1:]
    for head, end in zip(heads[~inside].tolist(), ends[~inside].tolist(), strict=True):
        number = int(candidates.channel[head])
        left = [tuple(boxes[number // bands].tolist())]
        for k in range(head, end):
            one = int(candidates.file[k])
            reach = _overlap(pixels_of(one), candidates.region[k].tolist())
            parts = [(area, _overlap(area, reach)) for area in left]
            torn += [(number, one, part) for _, part in parts if part[0] < part[1] and part[2] < part[3]]
            left = [rest for area, part in parts for rest in _without(area, part)]
            if not left:
                full[number] = True
                break
    channel = np.append(candidates.channel[heads[inside]], np.array([number for number, _, _ in torn], np.int64))
    file = np.append(candidates.file[heads[inside]], np.array([one for _, one, _ in torn], np.int64))
    area = np.concatenate([wanted[inside], np.array([part for _, _, part in torn], np.int64).reshape(-1, 4)])
    if torn:
        order = np.argsort(channel, kind="stable")
        channel, file, area = channel[order], file[order], area[order]
    return Pieces(channel, file, area, whole, full)


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int, int, int]:
    return max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])


def _without(area: tuple[int, ...], part: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield what is left of an area without a part of it: above, below, left and right."""
    y0, y1, x0, x1 = area
    low, high, left, right = part
    if low >= high or left >= right:
        yield y0, y1, x0, x1
        return
    for rest in ((y0, low, x0, x1), (high, y1, x0, x1), (low, high, x0, left), (low, high, right, x1)):
        if rest[0] < rest[1] and rest[2] < rest[3]:
            yield rest


@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """How the pixels of a plane are divided into tiles in each of ``F`` files; arrays ``(F, 2)``, ``(y, x)``.

    Attributes
    ----------
    origin
        First pixel of the file, tract pixels.
    shape
        Pixels of the plane.
    tile
        Pixels of a tile; those at the upper edges can be smaller.
    """

    origin: Integers
    shape: Integers
    tile: Integers


@dataclass(frozen=True, slots=True, eq=False)
class TilesNeeded:
    """The tiles that hold pieces, and the copies that bring them to the boxes.

    Attributes
    ----------
    file, tile
        ``(T,)`` row of the file in the grids, and number of the tile in its plane; each once, in ascending order.
    rows
        ``(T,)`` how many rows of each are needed, from its first.
    height, width
        ``(T,)`` pixels of each.
    copies
        ``(C, 8)`` row of the tile in these arrays, channel, first row and column in the box, first row and column in the
        tile, rows, columns; sorted by channel.
    """

    file: Integers
    tile: Integers
    rows: Integers
    height: Integers
    width: Integers
    copies: Integers


def tiles_needed(
    first: Integers, bands: int, channel: Integers, file: Integers, area: Integers, grids: Grids
) -> TilesNeeded:
    """Return the tiles of one plane that hold pieces.

    Parameters
    ----------
    first, bands
        As in `pieces_of`.
    channel, area
        ``(P,)`` and ``(P, 4)``, as in `Pieces`.
    file
        ``(P,)`` row of each piece's file in the grids.
    grids
        The tiles of the files.
    """
    (oy, ox), (ty, tx) = grids.origin[file].T, grids.tile[file].T
    y0, y1, x0, x1 = area[:, 0] - oy, area[:, 1] - oy, area[:, 2] - ox, area[:, 3] - ox
    row, column = y0 // ty, x0 // tx
    columns = (x1 - 1) // tx - column + 1
    counts = ((y1 - 1) // ty - row + 1) * columns
    # One line for each tile under each piece.
    piece = np.repeat(np.arange(len(channel)), counts)
    step = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = row[piece] + step // columns[piece], column[piece] + step % columns[piece]
    corner_y, corner_x = row * ty[piece], column * tx[piece]
    low_y, low_x = np.maximum(y0[piece], corner_y), np.maximum(x0[piece], corner_x)
    copies = np.empty((len(piece), 8), np.int64)
    copies[:, 1] = of = channel[piece]
    start = first[of // bands] - grids.origin[file][piece]
    copies[:, 2], copies[:, 3] = low_y - start[:, 0], low_x - start[:, 1]
    copies[:, 4], copies[:, 5] = low_y - corner_y, low_x - corner_x
    copies[:, 6] = np.minimum(y1[piece], corner_y + ty[piece]) - low_y
    copies[:, 7] = np.minimum(x1[piece], corner_x + tx[piece]) - low_x
    # Each tile once.
    count = -(-grids.shape // grids.tile)
    most = int(count.prod(axis=1).max(initial=1))
    key, copies[:, 0] = np.unique(file[piece] * most + row * count[file, 1][piece] + column, return_inverse=True)
    of_file, tile = key // most, key % most
    rows = np.zeros(len(key), np.int64)
    np.maximum.at(rows, copies[:, 0], copies[:, 4] + copies[:, 6])
    shape, step_of = grids.shape[of_file], grids.tile[of_file]
    row, column = tile // count[of_file, 1], tile % count[of_file, 1]
    height = np.minimum(step_of[:, 0], shape[:, 0] - row * step_of[:, 0])
    width = np.minimum(step_of[:, 1], shape[:, 1] - column * step_of[:, 1])
    return TilesNeeded(of_file, tile, rows, height, width, copies)
