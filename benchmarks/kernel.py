"""Microseconds to decode a RICE tile of an image, by our kernel and by others, built for several processors.

The kernel is compiled in a process of its own for this processor, for one with AVX2 and for the x86-64 baseline, each with an
empty cache of numba: the seconds of the first compilation are those of everything that this package compiles. The
libraries read the same tiles from the file, in the page cache.

Run: python -m benchmarks.kernel repo=bench/dense [tile_rows=4] [builds=[host,avx2,baseline]] [key=value ...] > kernel.json
The repository is the dense one of benchmarks.peers.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import fitsio
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lsstcutouts.errors import PixelMismatchError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.codecs import decode_tiles, dither_sequence, rice_hole, rice_padding
from lsstcutouts.fits.kernels import decode_rice, load_kernels
from lsstcutouts.sky.geometry import Box

from .common import report, scene, settings_of, simulated

__all__ = ["main", "measure"]

BUILDS = {
    "host": {},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+lzcnt,+fma,+movbe"},
    "baseline": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
"""Environment of numba for each build; on other processors than x86-64 only ``host`` works."""


class _Tiles:
    """The first rows of tiles of an image: their bytes in memory, and calls that decode all of them."""

    def __init__(self, path: str, tile_rows: int) -> None:
        with open_coadd(path) as coadd:
            self.layout = layout = coadd.layout("image")
        width, step = layout.tile_grid.x, layout.tile_shape
        self.box = Box(0, min(tile_rows, layout.tile_grid.y), 0, width)
        self.numbers = np.arange(self.box.y1 * width)
        self.shape = layout.pixels_of(self.box).shape
        self.corners = np.stack(np.divmod(self.numbers, width), 1) * step
        padding, whole = rice_padding(layout.rice[0]), Path(path).read_bytes()
        streams = [whole[at : at + size] for at, size in zip(layout.offsets, layout.sizes, strict=True)]
        streams = streams[: len(self.numbers)]
        self.bytes = np.frombuffer(bytearray(b"".join(stream + padding for stream in streams)), np.uint8)
        self.begins = np.cumsum([0, *(len(stream) + len(padding) for stream in streams[:-1])])
        self.views = [
            memoryview(self.bytes)[at : at + len(of)] for at, of in zip(self.begins.tolist(), streams, strict=True)
        ]
        self.out = np.empty((len(self.numbers), step.y * step.x), np.float32)

    def kernel(self) -> NDArray[np.int8]:
        """Decode by the compiled kernel, one call for all tiles."""
        layout, q, tiles, step = self.layout, self.layout.quantisation, self.numbers, self.layout.tile_shape
        sequence, starts = dither_sequence()
        return decode_rice(
            np.uint64(self.bytes.ctypes.data) + self.begins.astype(np.uint64),
            layout.sizes[tiles].astype(np.uint64),
            np.uint64(self.out.ctypes.data) + (tiles * self.out[0].nbytes).astype(np.uint64),
            np.minimum(step, self.shape - self.corners).prod(axis=1),
            layout.rice[0],
            rice_hole(step.y * step.x, layout.rice[0], 4),
            q.scale[tiles],
            q.zero[tiles],
            sequence,
            np.array(starts),
            (tiles + (q.seed - 1)) % len(starts),
            q.method == "SUBTRACTIVE_DITHER_2",
            np.broadcast_to(np.int64(q.blank or 0), len(layout.sizes))[tiles].astype(np.int64),
            q.blank is not None,
        )

    def pasted(self) -> NDArray[np.float32]:
        """Return what the kernel decoded as one image."""
        image = np.empty(self.shape, np.float32)
        for tile, (y, x) in zip(self.out, self.corners.tolist(), strict=True):
            part = image[y : y + self.layout.tile_shape.y, x : x + self.layout.tile_shape.x]
            part[...] = tile[: part.size].reshape(part.shape)
        return image

    def plain(self) -> NDArray[Any]:
        """Decode by imagecodecs and NumPy."""
        return decode_tiles(self.layout, self.box, self.numbers.tolist(), self.views)


def measure(path: str, tile_rows: int, repeats: int) -> dict[str, Any]:
    """Return seconds of the first compilation, and microseconds a tile of each decoder in each run; they take turns."""
    start = time.perf_counter()
    load_kernels()
    seconds = time.perf_counter() - start
    tiles = _Tiles(path, tile_rows)
    (height, width), hdu = tiles.shape, tiles.layout.hdu
    astropy_file, fitsio_file = fits.open(path), fitsio.FITS(path)
    calls: dict[str, Callable[[], NDArray[Any]]] = {
        "kernel": tiles.kernel,
        "plain path (imagecodecs, NumPy)": tiles.plain,
        "fitsio (cfitsio)": lambda: fitsio_file[hdu][0:height, 0:width],
        "astropy": lambda: astropy_file[hdu].section[0:height, 0:width],
    }
    found = {name: call() for name, call in calls.items()} | {"kernel": tiles.pasted()}
    for name, pixels in found.items():
        if not np.array_equal(pixels, found["plain path (imagecodecs, NumPy)"], equal_nan=True):
            raise PixelMismatchError(f"{name} gives other pixels of {path} than the plain path")
    runs: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            runs[name].append((time.perf_counter() - start) / len(tiles.numbers) * 1e6)
    bits = 8 * sum(map(len, tiles.views)) / (height * width)
    tile = "{} x {}".format(*tiles.layout.tile_shape)
    return {"seconds": seconds, "runs": runs, "tiles": len(tiles.numbers), "bits": bits, "tile": tile}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print microseconds a tile."""
    defaults = {"repo": "bench/dense", "tile_rows": 4, "builds": list(BUILDS)}
    settings, own = settings_of(__doc__, defaults, arguments)
    sample = scene(simulated(own["repo"]), settings)
    path = next(path for _, _, _, path in sample.files())
    code = (
        "import sys, json; from benchmarks.kernel import measure; print(json.dumps(measure(*json.loads(sys.argv[1]))))"
    )
    figures = []
    builds = own["builds"] if platform.machine() in {"x86_64", "AMD64"} else ["host"]
    for build in builds:
        with tempfile.TemporaryDirectory(prefix="lsstcutouts-benchmark-") as folder:
            given = json.dumps([path, own["tile_rows"], settings.repeats])
            environment = {**os.environ, **BUILDS[build], "NUMBA_CACHE_DIR": folder}
            call = [sys.executable, "-c", code, given]
            told = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        found = json.loads(told.stdout.splitlines()[-1])
        middle = {name: median(runs) for name, runs in found["runs"].items()}
        for name, value in middle.items():
            row = {"built for": build, "decoder": name, "us/tile": value, "fastest": min(found["runs"][name])}
            row |= {"over the kernel": value / middle.get("kernel", float("nan")), "tiles": found["tiles"]}
            row |= {"bits/px": found["bits"], "tile": found["tile"]}
            figures.append(row | ({"first compilation, s": found["seconds"]} if name == "kernel" else {}))
    report(figures, load=own["load"])


if __name__ == "__main__":
    main()
