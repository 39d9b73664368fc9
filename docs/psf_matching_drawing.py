"""Draw ``images/psf-matching.png``, the figure of ``psf-matching.md``, and print its figures: ``python docs/psf_matching_drawing.py``."""

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsstcutouts import LsstDataFetcher
from lsstcutouts.testing import SimulationConfig, simulate
from lsstcutouts.transforms import MatchPsf
from lsstcutouts.transforms.batch import TensorBatch
from lsstcutouts.transforms.worst_psf import MARGIN, narrowest_target

BANDS, SIZE, SCALE = "ugrizy", 49, 0.2
SHOWN = 33
INK = "#1d2433"
COLOURS = dict(zip(BANDS, ("#0c71ff", "#49be61", "#c61c00", "#ffc200", "#f341a2", "#5d0000"), strict=True))
"""Rubin's colours for plots in publications (RTN-045)."""


def read() -> tuple[TensorBatch, NDArray[np.str_]]:
    """Return all targets of a simulated repository that are whole in all bands, and their kinds."""
    with tempfile.TemporaryDirectory() as folder:
        config = SimulationConfig(release="dp2", cells=4, patches=2, targets=250, seed=3, missing=None)
        repo = simulate(Path(folder) / "repo", config)
        planes = ("image", "variance", "valid", "psf")
        with LsstDataFetcher(repo.root, collections=repo.collections, bands=BANDS, size=SIZE, planes=planes) as fetcher:
            batch = fetcher.fetch_plan(fetcher.plan(repo.truth))
        table = pq.read_table(repo.truth, columns=["object_id", "kind"])
    kinds = dict(zip(table["object_id"].to_pylist(), table["kind"].to_pylist(), strict=True))
    whole = np.asarray(batch["valid"]).all((1, 2, 3)) & np.asarray(batch["psf_present"]).all(1)
    arrays = {name: torch.from_numpy(np.asarray(v)[whole]) for name, v in batch.items() if isinstance(v, np.ndarray)}
    return arrays, np.array([kinds[one] for one in arrays["object_id"].tolist()])


def brightest(batch: TensorBatch, kinds: NDArray[np.str_], kind: str) -> int:
    """Return the brightest target of a kind in the band in which it is faintest against the noise, with little light around it."""
    image = batch["image"].numpy()
    middle, edge = image[:, :, 18:31, 18:31].sum((2, 3)), np.abs(image).sum((2, 3))
    score = np.where(kinds == kind, (middle / edge).min(1) * np.log(middle.min(1).clip(1)), -np.inf)
    return int(score.argmax())


def profile(image: NDArray[np.float32], offset: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return radii in arcsec and the brightness of an image relative to its peak, pixel by pixel within 2.4 arcsec."""
    middle = (np.array(image.shape) - 1) / 2 + offset
    y, x = np.indices(image.shape)
    radius = SCALE * np.hypot(y - middle[0], x - middle[1])
    near = radius < 2.4
    order = np.argsort(radius[near])
    return radius[near][order], image[near][order] / image.max()


def half_width(radius: NDArray[np.float64], brightness: NDArray[np.float64]) -> float:
    """Return twice the radius at which a profile falls to half of its middle, by a fit of a polynomial to its logarithm."""
    near = brightness > 0.3
    fit = np.polynomial.Polynomial.fit(radius[near] ** 2, np.log(brightness[near]), 2)
    fine = np.linspace(0, radius[near].max(), 2000)
    return float(2 * fine[np.argmax(fit(fine**2) < fit(0) + np.log(0.5))])


def draw_profiles(ax: Axes, image: NDArray[np.float32], offset: NDArray[np.float32], title: str) -> list[float]:
    """Draw the profile of a star in all bands, and return its widths."""
    widths = []
    for band, plane in zip(BANDS, image, strict=True):
        radius, brightness = profile(plane, offset)
        widths.append(half_width(radius, brightness))
        ax.plot(radius, brightness, ".", color=COLOURS[band], ms=2.4, label=f"{band} {widths[-1]:.2f}″")
    ax.set(
        title=title, xlabel="radius, arcsec", ylabel="brightness / peak", xlim=(0, 2.4), ylim=(0.003, 1.3), yscale="log"
    )
    ax.axhline(0.5, color="0.7", lw=0.8, zorder=0)
    ax.legend(
        fontsize=7.5,
        markerscale=4,
        frameon=False,
        handletextpad=0.1,
        loc="lower left",
        title="FWHM",
        title_fontsize=7.5,
    )
    return widths


def draw_correlation(ax: Axes, correlation: NDArray[np.float32], factors: NDArray[np.float32]) -> None:
    """Draw the correlation of the noise along a row."""
    middle = correlation.shape[-1] // 2
    for band, one, factor in zip(BANDS, correlation, factors, strict=True):
        ax.plot(one[middle, middle : middle + 11], ".-", color=COLOURS[band], ms=5, lw=1, label=f"{band} {factor:.1f}")
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.set(title="correlation of the noise", xlabel="separation, pixels", xticks=range(0, 11, 2), ylim=(-0.25, 1.05))
    ax.legend(fontsize=7.5, frameon=False, handletextpad=0.4, title="noise_correlation", title_fontsize=7.5)


def draw_images(fig: Figure, rows: list[tuple[str, NDArray[np.float32]]]) -> None:
    """Draw the images of a target in all bands in each row, all bands in the same stretch: asinh, relative to the peak."""
    axes = fig.subplots(len(rows), len(BANDS), squeeze=False)
    fig.subplots_adjust(left=0.13, right=0.985, top=0.95, bottom=0.005, wspace=0.04, hspace=0.04)
    cut = slice((SIZE - SHOWN) // 2, (SIZE + SHOWN) // 2)
    for line, (name, image) in zip(axes, rows, strict=True):
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
        for ax, band, plane in zip(line, BANDS, image, strict=True):
            shown = np.arcsinh(30 * plane[cut, cut] / plane.max())
            ax.imshow(shown, cmap="magma", origin="lower", vmin=-0.6, vmax=np.arcsinh(30), interpolation="nearest")
            ax.set_axis_off()
            if image is rows[0][1]:
                ax.set_title(band, fontsize=11, pad=4)


def main() -> None:
    """Write the figure."""
    batch, kinds = read()
    there = batch["psf"].flatten(0, 1).unsqueeze(1), batch["wcs"].repeat_interleave(len(BANDS), 0)
    module = MatchPsf("worst").fit(MARGIN * narrowest_target(*there, MatchPsf()))
    matched = module(batch)
    star, galaxy = (brightest(batch, kinds, kind) for kind in ("star", "galaxy"))
    before, after = batch["image"].numpy(), matched["image"].numpy()
    offset = batch["offset"].numpy()
    with mpl.rc_context({"font.size": 9.5, "font.family": "DejaVu Sans", "text.color": INK, "axes.titlesize": 10}):
        fig = plt.figure(figsize=(8.4, 8.9))
        top, bottom = fig.subfigures(2, 1, height_ratios=[5.6, 3.3])
        names = ("a star", "the star,\nmatched", "a galaxy", "the galaxy,\nmatched")
        draw_images(top, list(zip(names, (before[star], after[star], before[galaxy], after[galaxy]), strict=True)))
        axes = bottom.subplots(1, 3)
        bottom.subplots_adjust(left=0.085, right=0.985, top=0.9, bottom=0.14, wspace=0.33)
        widths = draw_profiles(axes[0], before[star], offset[star], "the star")
        same = draw_profiles(axes[1], after[star], offset[star], f"matched to {module.fwhm:.2f}″")
        factors = matched["noise_correlation"].median(0).values.numpy()
        draw_correlation(axes[2], module.noise_correlation(batch).median(0).values.numpy(), factors)
        axes[1].set_ylabel("")
        fig.savefig(Path(__file__).parent / "images" / "psf-matching.png", dpi=110, facecolor="white")
    ratio = (
        (matched["variance"] / batch["variance"])[:, :, 20:29, 20:29]
        .sqrt()
        .median(0)
        .values.flatten(1)
        .median(1)
        .values
    )
    middle = module.noise_correlation(batch).shape[-1] // 2
    next_pixel = module.noise_correlation(batch)[:, :, middle, middle + 1].median(0).values
    for band, *values in zip(BANDS, widths, same, ratio.tolist(), next_pixel.tolist(), factors.tolist(), strict=True):
        sys.stdout.write(
            f"{band}: star {values[0]:.3f} -> {values[1]:.3f} arcsec; noise x {values[2]:.2f}, correlation of neighbours {values[3]:.2f}, factor {values[4]:.2f}\n"
        )
    sys.stdout.write(f"target {module.fwhm:.3f} arcsec\n")


if __name__ == "__main__":
    main()
