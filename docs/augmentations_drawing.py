"""Draw ``images/augmentations.png``, the figure of ``augmentations.md``: ``python docs/augmentations_drawing.py``."""

import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt
from torch import nn

from lsstcutouts import LsstDataFetcher
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.testing import SimulationConfig, simulate
from lsstcutouts.transforms import AddNoise, BandDropout, Compose, RandomD4, RandomRotation, RandomShift

BANDS, SIZE, FETCHED = "gri", 64, 105
INK = "#1d2433"
EPOCHS = 6
CUT = RandomShift(0, SIZE)
ROWS: dict[str, nn.Module] = {
    "as read": CUT,
    "RandomD4": Compose([CUT, RandomD4()]),
    "RandomShift\n10 pixels": RandomShift(10, SIZE),
    "RandomShift\nwithout size": Compose([CUT, RandomShift(10)]),
    "RandomRotation": RandomRotation(SIZE),
    "BandDropout": Compose([CUT, BandDropout(0.3, maximum=1)]),
    "AddNoise\nup to 15 times": Compose([CUT, AddNoise((2.0, 15.0))]),
    "strong": Compose(
        [BandDropout(0.15, maximum=1), RandomRotation(72), RandomShift(4, SIZE), RandomD4(), AddNoise((0.0, 3.0))]
    ),
}


def read() -> dict[str, torch.Tensor]:
    """Return a bright target of a simulated repository."""
    with tempfile.TemporaryDirectory() as folder:
        config = SimulationConfig(release="dp2", cells=4, patches=2, bands=BANDS, targets=200, seed=3)
        repo = simulate(Path(folder) / "repo", config)
        planes = ("image", "variance", "valid")
        with LsstDataFetcher(
            repo.root, collections=repo.collections, bands=BANDS, size=FETCHED, planes=planes
        ) as fetcher:
            batch = fetcher.fetch_plan(fetcher.plan(repo.truth))
    image = np.asarray(batch["image"])
    whole = np.asarray(batch["valid"]).all((1, 2, 3))
    order = np.argsort(np.where(whole, image[:, :, 40:65, 40:65].sum((1, 2, 3)), -np.inf))
    row = order[-4:-3]
    return {name: torch.from_numpy(np.asarray(v)[row]) for name, v in batch.items() if isinstance(v, np.ndarray)}


def main() -> None:
    """Write the figure."""
    batch = read()
    pictures = Pictures(BANDS, PictureStyle(), batch["image"].numpy())
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK}):
        fig, axes = plt.subplots(len(ROWS), EPOCHS, figsize=(1.28 * EPOCHS + 1.5, 1.3 * len(ROWS) + 0.3), squeeze=False)
        fig.subplots_adjust(left=0.19, right=0.995, top=0.97, bottom=0.005, wspace=0.04, hspace=0.04)
        for i, (line, (name, module)) in enumerate(zip(axes, ROWS.items(), strict=True)):
            line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
            for epoch, ax in enumerate(line):
                for part in module.modules():
                    if hasattr(part, "set_epoch"):
                        part.set_epoch(epoch)
                image = module(batch)["image"][0].numpy()
                ax.imshow(pictures.panels(image, image.any((1, 2)))[0].image, origin="lower", interpolation="nearest")
                ax.set_axis_off()
                if i == 0:
                    ax.set_title(f"epoch {epoch}", fontsize=9.5, pad=4)
        fig.savefig(Path(__file__).parent / "images" / "augmentations.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    main()
