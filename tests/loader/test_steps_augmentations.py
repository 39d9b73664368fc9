"""Augmentations as the data module runs them: from configurations, compiled, in a training's place."""

import shutil
from pathlib import Path

import hydra
import lsstcutouts.configs
import pytest
import torch
from omegaconf import OmegaConf
from torch._dynamo.utils import counters

from lsstcutouts.loader.datamodule.description import described
from lsstcutouts.loader.datamodule.steps import DeviceSteps
from lsstcutouts.transforms import AddNoise, BandDropout, Compose, MatchPsf, RandomD4, RandomRotation, RandomShift

from ..support.augmenting import at_epoch, full_batch, in_channels_last, same
from ..support.point_spreads import psf_batch

FOLDER = Path(lsstcutouts.configs.__file__).parent / "augmentation"
SIZES = {"rotations": 97, "strong": 105}
"""Pixels to fetch, as the files say; 64 come out of all of them."""

COMPILED = {
    "shift": lambda: RandomShift(2, (15, 16)),
    "subpixel": lambda: RandomShift(2.5, subpixel=True, kernel="bilinear"),
    "rotation": lambda: RandomRotation((9, 11), kernel="bilinear"),
    "noise": lambda: AddNoise((0.5, 2.0)),
    "dropout": lambda: BandDropout(0.4, maximum=2),
}


@pytest.mark.parametrize("name", ["missing_bands", "rotations", "shallower", "shifts", "strong"])
def test_a_configuration_augments_what_it_says_to_fetch(name: str) -> None:
    cfg = OmegaConf.create({"seed": 3, "augmentations": OmegaConf.load(FOLDER / f"{name}.yaml")})
    module = hydra.utils.instantiate(cfg.augmentations)
    size = SIZES.get(name, 64)
    batch = full_batch(4, 6, size, size)
    if name not in {"strong", "shallower"}:
        batch = {k: v for k, v in batch.items() if k not in {"variance", "ivar", "mask", "valid", "psf"}}
    result = module(batch)
    assert result["image"].shape == (4, 6, 64, 64)
    assert not torch.equal(result["image"], batch["image"][..., :64, :64])


def test_the_configuration_of_psf_matching_has_the_defaults() -> None:
    cfg = OmegaConf.create({"seed": 3, "augmentations": OmegaConf.load(FOLDER / "match_psf.yaml")})
    matching, turning = hydra.utils.instantiate(cfg.augmentations)
    assert described(matching) == described(MatchPsf())
    assert turning.seed == 3
    batch = psf_batch(2, 20, 20)
    found = DeviceSteps().run(batch, [Compose([matching.fit(1.1), turning])])
    assert not torch.equal(found["psf"], batch["psf"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[pytest.mark.long] if name == "rotation" else []) for name, make in COMPILED.items()],
    ids=COMPILED,
)
def test_compiled_equals_eager_and_is_compiled_once(make) -> None:
    """For batches of every length and in every epoch, without a graph break."""
    torch.compiler.reset()
    counters.clear()
    module = make()
    compiled, eager = DeviceSteps(compile=True), DeviceSteps()
    for epoch, count in ((0, 16), (0, 7), (1, 16), (2, 33)):
        batch = in_channels_last(full_batch(count, psf=7, y=19, x=20))
        at_epoch(module, epoch)
        found, wanted = compiled.run(batch, [module]), eager.run(batch, [module])
        # Places differ by rounding: where a weight is next to nothing, it may count for one of them alone.
        alike = {n for n in wanted if n not in {"mask", "valid", "ivar"} or wanted[n].equal(found[n])}
        assert len(alike) > len(wanted) - 3
        same({n: found[n] for n in alike}, {n: wanted[n] for n in alike}, atol=2e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_matching_runs_between_compiled_steps() -> None:
    """Itself it is not compiled; what stands before and behind it is."""
    torch.compiler.reset()
    modules = [RandomD4(), MatchPsf(1.1, size=(11, 15)), RandomShift(1)]
    for count in (6, 4):
        batch = psf_batch(count, 20, 20)
        found, wanted = (DeviceSteps(compile=compiles).run(batch, modules) for compiles in (True, False))
        same(found, wanted, atol=1e-4)
