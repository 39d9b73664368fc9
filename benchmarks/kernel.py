"""Microseconds to decode a Rice tile, built for several processors, beside the plain path, astropy and fitsio.

Tiles of 150 x 150 pixels of noise, quantised to about 6.8 bits a pixel as in Rubin's coadds, and some with bright sources. Each
build is a process of its own with an empty cache of machine code, which also gives the seconds of the first compilation.

Run: python -m benchmarks.kernel [tiles=64] [repeats=15]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from lsstcutouts.fits import kernels
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.fits.codecs import decode_tiles
from lsstcutouts.fits.decode import streams_of
from lsstcutouts.fits.fused import RiceTiles, decode_fused
from lsstcutouts.source.byte_source import open_source

from .common import report, settings_of

__all__ = ["main"]

SIDE = 150
BUILDS = {
    "this processor": {},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "x86-64 baseline": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}


def write_tiles(path: Path, count: int) -> float:
    """Write an image of one column of tiles; returns its bits a pixel."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(count * SIDE, SIDE)).astype(np.float32)
    y, x = np.mgrid[-12:13, -12:13]
    for at in range(0, count * SIDE, 2 * SIDE):  # sources in every second tile
        for _ in range(6):
            low, left = at + int(rng.integers(0, SIDE - 25)), int(rng.integers(0, SIDE - 25))
            pixels[low : low + 25, left : left + 25] += 500 * np.exp(-(x * x + y * y) / 20)
    hdu = fits.CompImageHDU(
        pixels, name="IMAGE", compression_type="RICE_1", tile_shape=(SIDE, SIDE), quantize_level=16, quantize_method=2
    )
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": -5e-5, "CD2_2": 5e-5, "CRVAL1": 1.0, "CRVAL2": 1.0}
    hdu.header.update({"BUNIT": "nJy", "LTV1": 0, "LTV2": 0, **wcs})
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    return 8 * float(layout.sizes.sum()) / pixels.size


def measure(path: str, repeats: int) -> dict[str, float]:
    """Return seconds of the first compilation, and microseconds a tile."""
    start = time.perf_counter()
    kernels.load_kernels()
    compiled = time.perf_counter() - start
    with open_coadd(path) as coadd:
        layout = coadd.layout("image")
    tiles = np.arange(layout.units)
    streams = streams_of(open_source(path), layout, tiles).read()
    out = np.empty((len(tiles), SIDE * SIDE), np.float32)
    to = out.ctypes.data + np.arange(len(tiles), dtype=np.uint64) * np.uint64(out.strides[0])
    parts = [RiceTiles(layout, tiles, np.full(len(tiles), SIDE), streams, to)]
    boxes = [layout.tiles_under(layout.unit_box(tile)) for tile in tiles.tolist()]
    views = streams.views()

    def plain() -> None:
        for tile, box, view in zip(tiles.tolist(), boxes, views, strict=True):
            decode_tiles(layout, box, [tile], [view])

    def astropy() -> None:
        with fits.open(path) as hdus:
            np.asarray(hdus[1].data)

    ways: dict[str, Callable[[], Any]] = {"plain path": plain, "astropy": astropy}
    if kernels.FUSED:
        ways = {"kernel": lambda: decode_fused(parts)} | ways
    try:
        import fitsio
    except ImportError:
        pass
    else:
        ways["fitsio"] = lambda: fitsio.read(path, ext=1)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            before = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - before)
    return {"compiling": compiled} | {name: 1e6 * seconds / len(tiles) for name, seconds in best.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print microseconds of CPU a tile, the least of some."""
    settings, own = settings_of(__doc__, {"tiles": 64}, arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.fits"
        bits = write_tiles(path, own["tiles"])
        figures = []
        for build, variables in BUILDS.items():
            with tempfile.TemporaryDirectory() as cache:
                done = subprocess.run(  # noqa: S603
                    [sys.executable, "-m", "benchmarks.kernel", "--measure", str(path), str(max(3, settings.repeats))],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "NUMBA_CACHE_DIR": cache, **variables},
                )
            us = json.loads(done.stdout)
            figures.append(
                {"built for": build, "compiling (s)": us.pop("compiling"), **{f"{k} (us)": v for k, v in us.items()}}
            )
    report(figures, bits_per_pixel=bits)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        sys.stdout.write(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
