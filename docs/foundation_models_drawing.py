"""Draw ``images/foundation-models.png``, the figure of ``foundation-models.md``: ``python docs/foundation_models_drawing.py``."""

import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lsstcutouts import LsstDataFetcher
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.testing import SimulationConfig, simulate
from lsstcutouts.transforms import ToAion, ToAstroPT, ToZoobot

BANDS, SIZE = "grizy", 336
INK = "#1d2433"
AION, ZOOBOT, ASTROPT = ToAion(BANDS), ToZoobot(BANDS), ToAstroPT(BANDS)
FIELDS = {"AION": (96 * 0.168, "#ffd166"), "Zoobot": (35.33, "#4cc9f0"), "AstroPT": (256 * 0.262, "#f78fb3")}
"""Side of what each model sees, arcsec, and the colour of its outline."""


def read() -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return a bright lens, galaxy and star of a simulated repository, and their kinds."""
    with tempfile.TemporaryDirectory() as folder:
        config = SimulationConfig(
            release="dp2", cells=6, patches=2, bands=BANDS, targets=240, seed=3, missing=None, holes=False
        )
        repo = simulate(Path(folder) / "repo", config)
        truth = pq.read_table(repo.truth)
        with LsstDataFetcher(
            repo.root, collections=repo.collections, bands=BANDS, size=SIZE, planes=("image", "valid")
        ) as fetcher:
            batch = fetcher.fetch_plan(fetcher.plan(repo.truth))
    kind = dict(zip(truth["object_id"].to_pylist(), truth["kind"].to_pylist(), strict=True))
    kinds = np.array([kind[int(name)] for name in batch["object_id"]])
    middle = np.asarray(batch["image"])[:, :, 160:176, 160:176].sum((1, 2, 3))
    order = np.argsort(np.where(np.asarray(batch["valid"]).mean((1, 2, 3)) > 0.99, -middle, np.inf))
    rows = [next(i for i in order if kinds[i].startswith(name)) for name in ("lens", "galaxy", "star")]
    found = {name: torch.from_numpy(np.asarray(v)[rows]) for name, v in batch.items() if isinstance(v, np.ndarray)}
    return found, list(kinds[rows])


def main() -> None:
    """Write the figure."""
    batch, kinds = read()
    pictures = Pictures(BANDS, PictureStyle(), batch["image"].numpy())
    flux = AION(batch)["image"].numpy()
    colours = [adapter(batch)["image"] for adapter in (ZOOBOT, ASTROPT)]
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK}):
        fig = plt.figure(figsize=(10.3, 6.75))
        fig.subplots_adjust(left=0.03, right=0.995, top=0.93, bottom=0.01, wspace=0.05, hspace=0.05)
        grid = fig.add_gridspec(3, 4, width_ratios=[1, 1.55, 1, 1])
        for i, kind in enumerate(kinds):
            image = batch["image"][i].numpy()
            ax = fig.add_subplot(grid[i, 0])
            ax.imshow(pictures.panels(image, image.any((1, 2)))[0].image, origin="lower")
            for side, colour in FIELDS.values():
                start = (SIZE - side / 0.2) / 2
                ax.add_patch(
                    Rectangle((start, start), side / 0.2, side / 0.2, fill=False, edgecolor=colour, linewidth=1.6)
                )
            ax.text(-0.06, 0.5, kind, transform=ax.transAxes, ha="right", va="center", rotation=90)
            titled(ax, i, f'read: {SIZE} x {SIZE} pixels of 0.2"', INK)
            inner = grid[i, 1].subgridspec(2, 3, wspace=0.03, hspace=0.03)
            limit = np.arcsinh(np.quantile(flux[i], 0.9995) / 0.3)
            for k, name in enumerate(AION.band_names):
                small = fig.add_subplot(inner[k // 3, k % 3])
                small.imshow(np.arcsinh(flux[i, k] / 0.3), origin="lower", cmap="gray", vmin=-1.5, vmax=limit)
                small.text(0.04, 0.94, name, transform=small.transAxes, color="white", fontsize=8, va="top")
                small.set_axis_off()
                if k == 1:
                    titled(small, i, 'ToAion: flux, 5 x 96 x 96 of 0.168"', FIELDS["AION"][1])
            for j, (rgb, title) in enumerate(
                zip(colours, ('ToZoobot: 3 x 224 x 224, 35.3"', 'ToAstroPT: 3 x 256 x 256, 67.1"'), strict=True)
            ):
                ax = fig.add_subplot(grid[i, 2 + j])
                ax.imshow(rgb[i].permute(1, 2, 0), origin="lower", interpolation="nearest")
                titled(ax, i, title, list(FIELDS.values())[1 + j][1])
        fig.savefig(Path(__file__).parent / "images" / "foundation-models.png", dpi=92, facecolor="white")


def titled(ax: plt.Axes, row: int, title: str, colour: str) -> None:
    """Remove the axes, and write the title above the first row, underlined in the colour of its outline."""
    ax.set_axis_off()
    if row == 0:
        ax.set_title(title, fontsize=8.5, pad=6, bbox={"facecolor": "white", "edgecolor": colour, "pad": 2.5})


if __name__ == "__main__":
    main()
