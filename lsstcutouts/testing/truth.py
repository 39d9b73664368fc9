"""The simulated sky: the sources, their positions and fluxes, and the truth table.

Lenses and other targets have the same distribution of colours and fluxes: each target is a red galaxy with the same amount
of blue light, which is an arc if the target is a lens, and otherwise a disc or companions. So brightness alone does not
tell lenses from other targets.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import ConfigurationError
from ..sky.geometry import Box
from .config import KNOWN_BANDS, SimulationConfig
from .light import Kind, Sources
from .simulated_skymap import SimulatedSkyMap

__all__ = ["Sky", "draw_sky"]

ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

RED_COLOUR = np.array([5.6, 2.25, 0.75, 0.0, -0.35, -0.5])
BLUE_COLOUR = np.array([0.6, 0.2, 0.05, 0.0, -0.05, -0.1])
"""Magnitudes in ugrizy relative to i: an early-type galaxy at redshift 0.5 and a star-forming galaxy."""

SPACING = 30.0
"""Preferred distance between targets, pixels."""
SMALLEST_PITCH = 8.0
OUTSIDE_SHARE = 0.03
"""Number of targets outside the inner boxes, where only the border of a file covers them."""
STAR_SHARE = 0.06
FIELD_AREA = 2500.0
"""Pixels of sky per faint source that is not a target."""
BRIGHT_AREA = 1_000_000.0
"""Pixels of sky per saturated star."""
BRIGHT_CHOICE = 16
"""Candidate positions per saturated star."""


@dataclass(frozen=True)
class Sky:
    """A simulated sky and its truth table.

    Attributes
    ----------
    sources
        All sources, targets and others.
    truth
        Table of the targets.
    """

    sources: Sources
    truth: pa.Table


@dataclass(frozen=True)
class _Targets:
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    kind: NDArray[np.str_]
    red: NDArray[np.float64]
    blue: NDArray[np.float64]
    einstein: NDArray[np.float64]


def draw_sky(config: SimulationConfig, skymap: SimulatedSkyMap) -> Sky:
    """Return a random sky for a configuration.

    Raises
    ------
    ConfigurationError
        If the targets do not fit the patches.
    """
    rng = np.random.default_rng([config.seed, 2])
    targets = _draw_targets(config, skymap, rng)
    sources = [
        *_target_sources(targets, config.pixel_scale, rng),
        _field(config, skymap, targets, rng),
        _bright(config, skymap, targets, rng),
    ]
    return Sky(Sources.concatenate(sources), _truth_table(config, skymap, targets))


def _draw_targets(config: SimulationConfig, skymap: SimulatedSkyMap, rng: np.random.Generator) -> _Targets:
    y, x = _positions(config, skymap, rng)
    n = len(y)
    kind = np.full(n, "galaxy", "U6")
    order = rng.permutation(n)
    lenses = round(config.lens_fraction * n)
    stars = min(n - lenses, round(STAR_SHARE * n))
    kind[order[:lenses]] = "lens"
    kind[order[lenses : lenses + stars]] = "star"
    bands = [KNOWN_BANDS.index(band) for band in config.band_names]
    red = _fluxes(rng, np.clip(rng.normal(20.2, 0.6, n), 18.8, 21.5), RED_COLOUR, 0.12)[:, bands]
    blue = _fluxes(rng, rng.uniform(20.9, 22.4, n), BLUE_COLOUR, 0.15)[:, bands]
    einstein = np.where(kind == "lens", rng.uniform(0.8, 2.0, n), 0.0)
    return _Targets(y, x, kind, red, blue, einstein)


def _fluxes(
    rng: np.random.Generator, magnitude: NDArray[np.float64], colour: NDArray[np.float64], scatter: float
) -> NDArray[np.float64]:
    """Return ``(N, 6)`` fluxes in nJy in ugrizy from ``(N,)`` i magnitudes."""
    magnitudes = magnitude[:, None] + colour * (1.0 + scatter * rng.normal(size=(len(magnitude), 1)))
    return np.asarray(10.0 ** (0.4 * (ZERO_POINT - magnitudes)))


def _positions(
    config: SimulationConfig, skymap: SimulatedSkyMap, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``(y, x)`` of the targets, tract pixels: most in the inner boxes of patches, some in the borders around them."""
    count = config.targets
    outside = min(round(OUTSIDE_SHARE * count), count - 1)
    inner = [skymap.inner_box(patch) for patch in config.patch_ids]
    # Positions outside the box of the tract belong to another tract, which has no files.
    outer = [skymap.outer_box(patch).intersection(skymap.tract_box) for patch in config.patch_ids]
    pitch = float(np.sqrt(sum(box.area for box in inner) / (1.3 * count)))
    while pitch >= SMALLEST_PITCH:
        y, x = _lattice(outer, pitch)
        is_inner, is_outer = _inside(y, x, inner), _inside(y, x, outer)
        around = int((is_outer & ~is_inner).sum())
        if int(is_inner.sum()) + around >= count:
            break
        pitch *= 0.95
    else:
        raise ConfigurationError(
            f"targets={count} do not fit: they need {SMALLEST_PITCH:.0f} px between them; use fewer targets, or more or "
            "larger patches"
        )
    # If the patches fill the tract, there is little or no border for these targets.
    chosen = rng.permutation(np.flatnonzero(is_inner))[: count - min(outside, around)]
    ring = rng.permutation(np.flatnonzero(is_outer & ~is_inner))[: count - len(chosen)]
    chosen = rng.permutation(np.concatenate([chosen, ring]))
    y, x = y[chosen], x[chosen]
    play = (pitch - min(SPACING, 0.6 * pitch)) * rng.uniform(-0.5, 0.5, (2, count))
    # A random offset must not move a target out of the covered area.
    play *= _inside(y + play[0], x + play[1], outer)
    return y + play[0], x + play[1]


def _lattice(boxes: list[Box], pitch: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y = np.arange(min(b.y0 for b in boxes) + pitch / 2, max(b.y1 for b in boxes), pitch)
    x = np.arange(min(b.x0 for b in boxes) + pitch / 2, max(b.x1 for b in boxes), pitch)
    yy, xx = np.meshgrid(y, x, indexing="ij")
    return yy.ravel(), xx.ravel()


def _inside(y: NDArray[np.float64], x: NDArray[np.float64], boxes: list[Box]) -> NDArray[np.bool_]:
    inside = np.zeros(y.shape, bool)
    for b in boxes:
        inside |= (y >= b.y0) & (y < b.y1) & (x >= b.x0) & (x < b.x1)
    return inside


def _target_sources(targets: _Targets, scale: float, rng: np.random.Generator) -> list[Sources]:
    is_star, is_lens = targets.kind == "star", targets.kind == "lens"
    n = len(targets.y)
    radius = rng.uniform(0.45, 1.1, n) / scale
    ratio, angle = rng.uniform(0.6, 0.95, n), rng.uniform(0.0, np.pi, n)
    stars = _sources(targets, is_star, Kind.POINT, targets.red + targets.blue)
    galaxies = _sources(targets, ~is_star, Kind.DE_VAUCOULEURS, targets.red, radius, ratio, angle)
    return [stars, galaxies, _arcs(targets, is_lens, ratio, angle, scale, rng), *_not_lensed(targets, scale, rng)]


def _arcs(
    targets: _Targets,
    chosen: NDArray[np.bool_],
    ratio: NDArray[np.float64],
    angle: NDArray[np.float64],
    scale: float,
    rng: np.random.Generator,
) -> Sources:
    n = len(targets.y)
    einstein = targets.einstein / scale
    # Uniform over the disc in which a background source has more than one bright image.
    offset, direction = 0.45 * einstein * np.sqrt(rng.uniform(size=n)), rng.uniform(0.0, 2.0 * np.pi, n)
    radius = rng.uniform(0.12, 0.3, n) / scale
    source = offset * np.sin(direction), offset * np.cos(direction)
    return _sources(targets, chosen, Kind.ARC, targets.blue, radius, ratio, angle, einstein, *source)


def _not_lensed(targets: _Targets, scale: float, rng: np.random.Generator) -> list[Sources]:
    """Return the blue light of the targets that are no lenses: discs with arms, or one to three companions."""
    n = len(targets.y)
    is_galaxy, is_disc = targets.kind == "galaxy", rng.uniform(size=n) < 0.5
    radius, ratio = rng.uniform(0.7, 1.8, n) / scale, rng.uniform(0.35, 1.0, n)
    angle, phase = rng.uniform(0.0, np.pi, n), rng.uniform(0.0, 2.0 * np.pi, n)
    arms, pitch = rng.uniform(0.1, 1.0, n), rng.uniform(0.25, 0.6, n)
    discs = _sources(targets, is_galaxy & is_disc, Kind.SPIRAL, targets.blue, radius, ratio, angle, arms, pitch, phase)
    return [discs, *_companions(targets, is_galaxy & ~is_disc, scale, rng)]


def _companions(targets: _Targets, chosen: NDArray[np.bool_], scale: float, rng: np.random.Generator) -> list[Sources]:
    n = len(targets.y)
    shares = rng.dirichlet([2.0, 2.0, 2.0], n) * (np.arange(3) < rng.integers(1, 4, (n, 1)))
    shares /= shares.sum(axis=1, keepdims=True)
    return [_companion(targets, chosen & (share > 0), share, scale, rng) for share in shares.T]


def _companion(
    targets: _Targets,
    chosen: NDArray[np.bool_],
    share: NDArray[np.float64],
    scale: float,
    rng: np.random.Generator,
) -> Sources:
    n = len(targets.y)
    distance, direction = rng.uniform(0.7, 2.8, n) / scale, rng.uniform(0.0, 2.0 * np.pi, n)
    radius, ratio, angle = rng.uniform(0.15, 0.45, n) / scale, rng.uniform(0.4, 1.0, n), rng.uniform(0, np.pi, n)
    flux = targets.blue * share[:, None]
    moved = _Targets(
        targets.y + distance * np.sin(direction),
        targets.x + distance * np.cos(direction),
        targets.kind,
        targets.red,
        targets.blue,
        targets.einstein,
    )
    return _sources(moved, chosen, Kind.EXPONENTIAL, flux, radius, ratio, angle)


def _sources(
    targets: _Targets,
    chosen: NDArray[np.bool_],
    kind: Kind,
    flux: NDArray[np.float64],
    *columns: NDArray[np.float64],
) -> Sources:
    shape = np.zeros((len(targets.y), 6))
    shape[:, 1] = 1.0
    for n, column in enumerate(columns):
        shape[:, n] = column
    kinds = np.full(int(chosen.sum()), int(kind))
    return Sources(targets.y[chosen], targets.x[chosen], kinds, shape[chosen], flux[chosen])


def _field(config: SimulationConfig, skymap: SimulatedSkyMap, targets: _Targets, rng: np.random.Generator) -> Sources:
    """Return faint stars and galaxies that are not in the truth table, and not near a target."""
    y, x = _scattered(config, skymap, FIELD_AREA, rng)
    free = _free(y, x, targets, 8.0)
    y, x = y[free], x[free]
    n = len(y)
    magnitude = np.maximum(25.5 + np.log10(rng.uniform(size=n)) / 0.35, 20.5)
    mix = rng.uniform(size=(n, 1))
    colour = (1.0 - mix) * BLUE_COLOUR + mix * RED_COLOUR
    bands = [KNOWN_BANDS.index(band) for band in config.band_names]
    flux = 10.0 ** (0.4 * (ZERO_POINT - magnitude[:, None] - colour[:, bands]))
    kind = np.where(rng.uniform(size=n) < 0.2, Kind.POINT, Kind.EXPONENTIAL)
    shape = np.zeros((n, 6))
    shape[:, 0] = rng.uniform(0.2, 0.6, n) / config.pixel_scale
    shape[:, 1], shape[:, 2] = rng.uniform(0.4, 1.0, n), rng.uniform(0.0, np.pi, n)
    return Sources(y, x, kind.astype(np.int64), shape, flux)


def _bright(config: SimulationConfig, skymap: SimulatedSkyMap, targets: _Targets, rng: np.random.Generator) -> Sources:
    """Return saturated stars, at least one, away from the targets if possible."""
    y, x = _scattered(config, skymap, BRIGHT_AREA / BRIGHT_CHOICE, rng)
    # A stable sort: free positions come first, in their random order.
    best = np.argsort(~_free(y, x, targets, 24.0), kind="stable")[: math.ceil(len(y) / BRIGHT_CHOICE)]
    y, x = y[best], x[best]
    flux = 10.0 ** (0.4 * (ZERO_POINT - rng.uniform(15.8, 16.4, (len(y), 1)))) * np.ones(len(config.band_names))
    return Sources(y, x, np.full(len(y), int(Kind.POINT)), np.tile([0.0, 1, 0, 0, 0, 0], (len(y), 1)), flux)


def _scattered(
    config: SimulationConfig, skymap: SimulatedSkyMap, area: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return random positions in the outer boxes of the patches, one per ``area`` pixels."""
    boxes = [skymap.outer_box(patch) for patch in config.patch_ids]
    corners = np.array([box.start for box in boxes])
    count = max(1, round(sum(box.area for box in boxes) / area))
    place = corners[rng.integers(len(boxes), size=count)] + rng.uniform(size=(count, 2)) * np.array(boxes[0].shape)
    return place[:, 0], place[:, 1]


def _free(y: NDArray[np.float64], x: NDArray[np.float64], targets: _Targets, side: float) -> NDArray[np.bool_]:
    """Return which positions have no target within about ``side`` pixels, ``(n,)`` bool."""
    return ~np.isin(_cells(y, x, side), _neighbourhood(targets.y, targets.x, side))


def _cells(y: NDArray[np.float64], x: NDArray[np.float64], side: float) -> NDArray[np.int64]:
    """Return the number of the square of ``side`` pixels that contains each position."""
    return np.asarray(np.floor(y / side).astype(np.int64) * 1_000_000 + np.floor(x / side).astype(np.int64))


def _neighbourhood(y: NDArray[np.float64], x: NDArray[np.float64], side: float) -> NDArray[np.int64]:
    steps = (-side, 0.0, side)
    return np.concatenate([_cells(y + dy, x + dx, side) for dy in steps for dx in steps])


def _truth_table(config: SimulationConfig, skymap: SimulatedSkyMap, targets: _Targets) -> pa.Table:
    ra, dec = skymap.sky(targets.y, targets.x)
    patch = skymap.primary_patch(targets.y, targets.x)
    n = len(ra)
    # As long as Rubin's ids, which a conversion to float would change.
    ids = np.int64(config.tract + 1) * 10**14 + np.arange(n, dtype=np.int64) * 7919 + 1
    total = targets.red + targets.blue
    columns: list[tuple[str, Any, str, str]] = [
        ("object_id", ids, "", "identifier of the target"),
        ("ra", ra, "deg", "right ascension, ICRS"),
        ("dec", dec, "deg", "declination, ICRS"),
        ("label", (targets.kind == "lens").astype(np.int64), "", "1 for a lens, otherwise 0"),
        ("kind", targets.kind.tolist(), "", "lens, galaxy or star"),
        ("theta_e", targets.einstein, "arcsec", "Einstein radius; 0 if not a lens"),
        ("tract", np.full(n, config.tract, np.int64), "", "tract"),
        ("patch", patch, "", "patch whose inner region contains the target"),
        ("x", targets.x, "pixel", "tract pixel, column"),
        ("y", targets.y, "pixel", "tract pixel, row"),
    ]
    columns += [(f"flux_{b}", total[:, i], "nJy", f"total flux in {b}") for i, b in enumerate(config.band_names)]
    arrays = [pa.array(values) for _, values, _, _ in columns]
    fields = [
        pa.field(name, array.type, nullable=False, metadata=_notes(unit, text))
        for (name, _, unit, text), array in zip(columns, arrays, strict=True)
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def _notes(unit: str, text: str) -> dict[str, str]:
    return {"unit": unit, "description": text} if unit else {"description": text}
