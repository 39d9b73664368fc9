"""Claims of the tile cache, filled with pixels that say whose they are."""

import gc
import threading
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.read.cache.tile_cache import Claim, TileCache, Wanted

__all__ = ["collect_inside", "fetch", "fill", "filled", "wanted"]


def wanted(
    key: Hashable, tiles: Sequence[int], nbytes: int = 960, rows: int = 1, count: int = 100, requests: int | None = None
) -> Wanted:
    """Return a wish for tiles of a plane of ``count`` tiles."""
    numbers = np.array(tiles, np.int64)
    return Wanted(
        key, numbers, np.full(len(numbers), rows), count, nbytes, len(tiles) if requests is None else requests
    )


def content(key: Hashable, tile: int, nbytes: int) -> NDArray[np.uint8]:
    """Return what a tile holds in these tests."""
    return np.full(nbytes, hash((key, tile)) % 251, np.uint8)


def fill(claim: Claim, wishes: Sequence[Wanted]) -> None:
    """Fill what is missing."""
    for i, wish in enumerate(wishes):
        for position in claim.missing[i].tolist():
            claim.view(i, position, np.dtype(np.uint8), (wish.nbytes,))[:] = content(
                wish.key, int(wish.tiles[position]), wish.nbytes
            )
        claim.fill(i, claim.missing[i], True)


def filled(cache: TileCache, *wishes: Wanted) -> Claim:
    """Return a claim of tiles, all of them filled and checked."""
    while True:
        claim = cache.claim(wishes)
        fill(claim, wishes)
        claim.finish()
        while claim.is_waiting():
            pass
        if not claim.lacks():
            break
        claim.end()
    for i, wish in enumerate(wishes):
        for position, tile in enumerate(wish.tiles.tolist()):
            held = claim.view(i, position, np.dtype(np.uint8), (wish.nbytes,))
            assert (held == content(wish.key, tile, wish.nbytes)).all()
    return claim


def fetch(cache: TileCache, *wishes: Wanted) -> list[int]:
    """Claim tiles, fill them and end the claim; returns which had to be made."""
    claim = filled(cache, *wishes)
    made = [tile for wish, at in zip(wishes, claim.missing, strict=True) for tile in wish.tiles[at].tolist()]
    claim.end()
    return made


def collect_inside(cache: TileCache) -> None:
    """Collect the garbage of a thread that holds the cache's lock; fail if it waits for that."""

    def collect() -> None:
        with cache._state().lock:
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
