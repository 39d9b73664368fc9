"""Draw ``images/injection.png`` and ``images/injection-completeness.png``, the figures of ``injection.md``.

``python docs/injection_drawing.py`` needs the repository of ``make demo``. A checkpoint of the training in ``injection.md`` is used if
there is one in ``outputs/injection``; otherwise it is trained first, which takes some minutes.
"""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

from lsstcutouts import CutoutDataModule, LsstDataFetcher
from lsstcutouts.app.cli import main as command
from lsstcutouts.app.gallery.pictures import Pictures, PictureStyle
from lsstcutouts.models import LensClassifier, LensFinder
from lsstcutouts.transforms import InjectSources, Lens, PointSource, Sersic, Stamps, inject

BANDS, INK, BLUE, RED = "gri", "#1d2433", "#0072B2", "#D55E00"
IMAGES, OUTPUT, DEMO = Path(__file__).parent / "images", Path("outputs/injection"), Path("demo/repo")
COLOURS = {"g": 0.2, "r": 0.05, "i": 0.0}
RED_GALAXY = [2.0, 0.7, 0.0]
"""Magnitudes of a lens galaxy in g, r and i relative to the blue images."""


def spiral() -> np.ndarray:
    """Return a picture of a spiral galaxy ``(1, 61, 61)``, nJy per pixel of 0.1 arcsec."""
    y, x = np.mgrid[-30:31, -30:31] / 9.0
    radius, angle = np.hypot(y, 1.5 * x), np.arctan2(y, 1.5 * x)
    arms = 1 + 0.9 * np.cos(2 * angle - 5 * np.log(radius + 0.3))
    return (200 * np.exp(-1.2 * radius) * arms)[None]


def rows() -> dict[str, InjectSources | None]:
    """Return what is injected in each row of the first figure."""
    given: dict[str, Any] = {"colours": COLOURS, "bands": BANDS, "fraction": 1.0, "noise": 20.0}
    off = {"distance": (2.0, 4.0)}
    return {
        "as read": None,
        "PointSource": InjectSources(PointSource(), magnitude=20.5, **given, **off),
        "Sersic": InjectSources(Sersic((0.5, 1.2), (1.0, 4.0), (0.2, 0.8)), magnitude=20.0, **given, **off),
        "Lens": InjectSources(Lens((1.0, 2.0), source_distance=(0.1, 0.6)), magnitude=20.3, **given),
        "Lens with\ngalaxy, beside": InjectSources(
            Lens(1.2, galaxy_ratio=2.0, galaxy_colours=RED_GALAXY, galaxy_radius=0.6),
            magnitude=20.5,
            distance=4.0,
            **given,
        ),
        "Stamps": InjectSources(Stamps(spiral(), 0.1), magnitude=19.8, distance=4.0, **given),
    }


def draw_models() -> None:
    """Write cutouts before and after the injection of each model."""
    truth = pq.read_table(DEMO / "truth.parquet")
    galaxies = truth.filter(pc.equal(truth["kind"], "galaxy")).slice(0, 60)
    planes = ("image", "variance", "psf", "valid")
    with LsstDataFetcher(DEMO, collections="dp2", bands=BANDS, size=64, planes=planes) as fetcher:
        batch = fetcher.fetch_plan(fetcher.plan(galaxies.select(["object_id", "ra", "dec"])))
    good = np.flatnonzero(batch["valid"].all((1, 2, 3)) & batch["psf_present"].all(1))[:7]
    batch = {name: v[good] for name, v in batch.items() if isinstance(v, np.ndarray)}
    pictures = Pictures(BANDS, PictureStyle(), batch["image"])
    lines = rows()
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK}):
        fig, axes = plt.subplots(
            len(lines), len(good), figsize=(1.28 * len(good) + 1.3, 1.3 * len(lines)), squeeze=False
        )
        fig.subplots_adjust(left=0.125, right=0.995, top=0.995, bottom=0.005, wspace=0.04, hspace=0.04)
        for line, (name, sources) in zip(axes, lines.items(), strict=True):
            line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
            images = batch["image"] if sources is None else inject(batch, sources)["image"]
            for ax, image in zip(line, images, strict=True):
                ax.imshow(pictures.panels(image, image.any((1, 2)))[0].image, origin="lower", interpolation="nearest")
                ax.set_axis_off()
        fig.savefig(IMAGES / "injection.png", dpi=120, facecolor="white")


def train() -> Path:
    """Return the checkpoint of a network that was trained on injected lenses, and train it if there is none."""
    checkpoint = OUTPUT / "model.ckpt"
    if not checkpoint.exists():
        OUTPUT.mkdir(parents=True, exist_ok=True)
        truth = pq.read_table(DEMO / "truth.parquet")
        galaxies = truth.filter(pc.equal(truth["kind"], "galaxy")).select(["object_id", "ra", "dec"])
        pq.write_table(galaxies, OUTPUT / "galaxies.parquet")
        data = ["repo=demo/repo", "collections=dp2", f"catalog={OUTPUT}/galaxies.parquet"]
        command(
            ["train", "augmentation=inject", *data, "data.batch_size=32", "trainer.max_epochs=45", f"output={OUTPUT}"]
        )
    return checkpoint


def scored(checkpoint: Path, repeats: int = 10) -> dict[str, Tensor]:
    """Return score, ``injected``, i magnitude and Einstein radius of the galaxies of the validation split.

    Each galaxy is used several times, with other sources.
    """
    data = CutoutDataModule.load_from_checkpoint(checkpoint)
    data.setup("validate")
    model = LensClassifier.load_from_checkpoint(checkpoint, network=LensFinder("ugrizy"), map_location="cpu").eval()
    found: list[list[Tensor]] = []
    with torch.inference_mode():
        for batch in data.val_dataloader():
            for repeat in range(repeats):
                again = batch | {"repeat": torch.full((len(batch["object_id"]),), repeat)}
                ready = data.transform(again, stage="val")
                magnitude = 31.4 - 2.5 * ready["injected_flux"][:, 3].log10()  # type: ignore[union-attr, call-overload]
                found.append(
                    [model(ready["image"]), ready["injected"], magnitude, ready["injected_einstein_radius"]]  # type: ignore[list-item]
                )
    names = ("score", "injected", "magnitude", "einstein_radius")
    return {name: torch.cat(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def true_scores(checkpoint: Path) -> tuple[Tensor, list[str]]:
    """Return score and kind of the demo's targets, as they are, without those that the network was trained on."""
    truth = pq.read_table(DEMO / "truth.parquet")
    trained = CutoutDataModule.load_from_checkpoint(checkpoint)
    trained.setup("fit")
    plan, used = trained.splits["train"]
    unused = ~np.isin(truth["object_id"].to_numpy(), np.asarray(plan.object_id)[used])
    data = CutoutDataModule.load_from_checkpoint(
        checkpoint, catalog=truth.filter(unused), columns=["kind"], splits={"test": 1.0}
    )
    data.setup("test")
    model = LensClassifier.load_from_checkpoint(checkpoint, network=LensFinder("ugrizy"), map_location="cpu").eval()
    scores, kinds = [], []
    with torch.inference_mode():
        for batch in data.test_dataloader():
            scores.append(model(data.transform(batch, stage="predict")["image"]))
            kinds += batch["kind"]
    return torch.cat(scores), kinds


def area(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the curve of true against false positives."""
    return float((positive.unsqueeze(1) > negative).float().mean())


def draw_completeness() -> None:
    """Write the share of injected lenses that are found, and print figures for the page."""
    checkpoint = train()
    found = scored(checkpoint)
    injected, score = found["injected"], found["score"]
    threshold = score[~injected].quantile(0.99)
    hits = (score > threshold).double()
    truths, kinds = true_scores(checkpoint)
    lens, galaxy = (torch.tensor([kind == wanted for kind in kinds]) for wanted in ("lens", "galaxy"))
    of_true, at = float((truths[lens] > threshold).double().mean()), truths[galaxy].quantile(0.99)
    own, known = area(score[injected], score[~injected]), area(truths[lens], truths[galaxy])
    passing = float((truths[galaxy] > threshold).double().mean())
    figures = [
        f"injected: {int(injected.sum())} of {len(score)}, found {float(hits[injected].mean()):.3f}, area {own:.3f}",
        f"true lenses: {int(lens.sum())}, found {of_true:.3f}, area {known:.3f}",
        f"galaxies as they are: {int(galaxy.sum())}, above the threshold {passing:.4f}",
        f"true lenses above 1 % of these: {float((truths[lens] > at).double().mean()):.3f}",
    ]
    print(*figures, sep="\n")  # noqa: T201
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": INK}):
        fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, constrained_layout=True)
        panels = (
            ("magnitude", np.arange(20.5, 24.6, 0.5), "i magnitude of the images (AB)"),
            ("einstein_radius", np.arange(0.8, 2.01, 0.2), "Einstein radius (arcsec)"),
        )
        for ax, (name, edges, label) in zip(axes, panels, strict=True):
            where = np.digitize(found[name][injected].numpy(), edges) - 1
            bins = [hits[injected].numpy()[where == i] for i in range(len(edges) - 1)]
            share = np.array([one.mean() for one in bins])
            error = [
                math.sqrt(max(s * (1 - s), 0.25 / len(one)) / len(one)) for s, one in zip(share, bins, strict=True)
            ]
            ax.errorbar(
                (edges[1:] + edges[:-1]) / 2,
                share,
                error,
                np.diff(edges) / 2,
                "o",
                color=BLUE,
                capsize=2,
                label="injected lenses",
            )
            ax.set(xlabel=label, ylim=(0, 1.02))
            ax.grid(color="0.9")
        axes[0].hlines(of_true, 20.9, 22.4, color=RED, ls="--", label="true lenses, all together")
        axes[0].legend(loc="upper right", frameon=False)
        axes[0].set_ylabel("found, with 1 % false positives")
        fig.savefig(IMAGES / "injection-completeness.png", dpi=120, facecolor="white")


if __name__ == "__main__":
    draw_models()
    draw_completeness()
