"""Injection: which targets get a source, what the batch says about it, noise, and that nothing else changes."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import batch_wcs
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import (
    Compose,
    InjectSources,
    Lens,
    PointSource,
    RandomD4,
    RandomRotation,
    RandomShift,
    Sersic,
    Stamps,
)

from ..support.augmenting import at_epoch, in_channels_last, same
from ..support.examples import examples
from ..support.injecting import empty_cutouts

STAMPS = Stamps(np.random.default_rng(0).uniform(1, 2, (3, 12, 17)), 0.1)
MODELS = {
    "point": PointSource(),
    "sersic": Sersic(index=(0.8, 4.0)),
    "lens": Lens(galaxy_ratio=(0.0, 3.0), galaxy_colours=[0.5, 0.0, -0.5]),
    "stamps": STAMPS,
}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
EVERY = partial(InjectSources, flux_njy=1000.0, fraction=1.0)


@models
@examples(3)
@given(data=st.data())
def test_a_target_gets_the_same_source_in_any_order_and_batch(model, data: st.DataObject) -> None:
    batch = empty_cutouts(12)
    module = InjectSources(model, (100.0, 1e4), noise=20.0, distance=(0, 2), colours=[(-1, 1), 0.0, 0.5])
    whole = module(batch)
    assert 0 < whole["injected"].sum() < 12
    order = torch.tensor(data.draw(st.permutations(range(12))))
    cut = data.draw(st.integers(0, 12))
    parts = [module({name: value[rows] for name, value in batch.items()}) for rows in (order[:cut], order[cut:])]
    same(
        {name: torch.cat([p[name] for p in parts]) for name in whole},
        {n: v[order] for n, v in whole.items()},
        atol=1e-3,
    )


@models
def test_epochs_and_seeds_differ_and_repeat(model) -> None:
    batch = empty_cutouts(8)
    make = partial(EVERY, model, noise=20.0)
    first = make()(batch)["image"]
    assert torch.equal(make()(batch)["image"], first)
    repeated = {**batch, "repeat": torch.arange(8)}
    for other in (make(seed=1)(batch), at_epoch(make(), 1)(batch), make()(repeated)):
        assert not torch.equal(other["image"], first)
    assert torch.equal(make()(repeated)["image"][0], first[0])


@models
def test_the_batch_is_left_alone_and_its_layout_changes_nothing(model) -> None:
    batch = empty_cutouts(3)
    before = copy.deepcopy(batch)
    module = EVERY(model, noise=20.0)
    result = module(batch)
    same(batch, before)
    assert all(result[name].dtype == value.dtype for name, value in batch.items())
    found = module(in_channels_last(batch))
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found["image"].contiguous(), result["image"])


@models
def test_nothing_is_asked_of_a_device(model) -> None:
    """The meta device has no values: whatever needs one, as a wait for a GPU would be, raises."""
    batch = {name: value.to("meta") for name, value in empty_cutouts(4).items()}
    result = copy.deepcopy(EVERY(model, noise=20.0)).to("meta")(batch)
    assert all(value.device.type == "meta" for value in result.values())


@models
def test_rows_that_are_left_out_on_the_cpu_change_nothing(model) -> None:
    """Elsewhere all targets are computed, and added where there is a source."""
    batch = empty_cutouts(8)
    batch["wcs"][:2], batch["band_present"][:2] = torch.nan, False  # outside the coverage
    batch["psf"][2] = torch.nan
    module = InjectSources(model, 1000.0, noise=20.0)
    sources, everything = module.sources(batch), slice(None)
    planes = module._planes(batch, sources, everything)
    result = module(batch)
    for name, plane in planes.items():
        torch.testing.assert_close(plane, result[name], atol=1e-4, rtol=1e-6)


@models
def test_flux_is_kept(model) -> None:
    if isinstance(model, Lens):
        model = Lens()
    if isinstance(model, Sersic):
        model = Sersic(radius=(0.2, 0.3), index=(0.5, 1.0))
    batch = empty_cutouts(8, 3, 64, 71)
    batch["psf"] *= torch.tensor([0.9, 1.0, 1.2]).reshape(3, 1, 1)  # kernels need no sum of 1
    result = InjectSources(model, [100.0, 2000.0, 3e4], fraction=1.0)(batch)
    torch.testing.assert_close(result["injected_flux"], torch.tensor([[100.0, 2000.0, 3e4]]).expand(8, 3))
    total = result["image"].double().sum((2, 3))
    torch.testing.assert_close(total, result["injected_flux"].double(), rtol=1e-5, atol=0)


def test_sources_are_where_the_columns_say() -> None:
    batch = empty_cutouts(16, 1, 61, 80)
    result = EVERY(PointSource(), distance=(0.5, 3.0))(batch)
    y, x = torch.meshgrid(torch.arange(61.0), torch.arange(80.0), indexing="ij")
    distances = []
    for i, image in enumerate(result["image"][:, 0].double()):
        centroid = float((image * x).sum() / image.sum()), float((image * y).sum() / image.sum())
        wcs = batch_wcs(batch, i)
        ra, dec = result["injected_position"][i].tolist()
        assert np.allclose(wcs.all_world2pix([[ra, dec]], 0)[0], centroid, atol=1e-3)
        middle = [(80 - 1) / 2 + float(batch["offset"][i, 1]), (61 - 1) / 2 + float(batch["offset"][i, 0])]
        ((ra0, dec0),) = wcs.all_pix2world([middle], 0)
        distances.append(3600 * np.hypot((ra - ra0) * np.cos(np.deg2rad(dec0)), dec - dec0))
    assert min(distances) > 0.5
    assert max(distances) < 3.0


def test_shares_and_magnitudes() -> None:
    ids = torch.arange(20_000)
    batch = {name: v[:1].repeat(20_000, *[1] * (v.ndim - 1)) for name, v in empty_cutouts(1, 2, 3, 3, psf=3).items()}
    batch["object_id"] = ids
    sources = InjectSources(
        Sersic(radius=[0.1, 0.2, 0.2, 0.4]), magnitude=(20, 24), colours={"g": (1, 2), "r": 0}, bands="gr", fraction=0.3
    ).sources(batch)
    assert abs(sources.injected.float().mean() - 0.3) < 0.01
    red = 31.4 - 2.5 * sources.fluxes[:, 1].log10()
    colour = -2.5 * (sources.fluxes[:, 0] / sources.fluxes[:, 1]).log10()
    for values, low, high in ((red, 20, 24), (colour, 1, 2)):
        edges = torch.linspace(low, high, 11)
        torch.testing.assert_close(
            torch.histc(values, 10, low, high) / 20_000, torch.full((10,), 0.1), atol=0.01, rtol=0
        )
        assert edges[0] - 1e-3 < values.min()
        assert values.max() < edges[-1] + 1e-3
    radius = sources.parameters["radius"]
    for value, share in ((0.1, 0.25), (0.2, 0.5), (0.4, 0.25)):
        assert abs((radius == value).float().mean() - share) < 0.012
    pairs = torch.corrcoef(torch.stack([red, colour, radius, sources.injected.float()]))
    assert (pairs - torch.eye(4)).abs().max() < 0.03


def test_log_uniform_fluxes_and_one_for_each_band() -> None:
    batch = empty_cutouts(64)
    fluxes = EVERY(PointSource(), flux_njy=(10.0, 1000.0)).sources(batch).fluxes
    assert torch.equal(fluxes[:, 0], fluxes[:, 2])
    assert 10 <= fluxes.min() < 20
    assert 500 < fluxes.max() <= 1000.001
    assert 1.4 < fluxes[:, 0].log10().mean() < 2.3  # 2 in the mean, 0.07 of scatter
    named = InjectSources(PointSource(), {"g": 1.0, "i": 3.0, "r": 2.0}, bands="gri", fraction=1.0)
    assert named.sources(batch).fluxes[0].tolist() == pytest.approx([1.0, 2.0, 3.0])


# Labels and columns


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64, torch.bool, torch.uint8])
def test_a_label_becomes_1_and_keeps_its_dtype(dtype: torch.dtype) -> None:
    batch = empty_cutouts(16) | {"kind": torch.zeros(16).to(dtype)}
    result = InjectSources(PointSource(), 100.0, label="kind")(batch)
    assert result["kind"].dtype == dtype
    assert torch.equal(result["kind"].bool(), result["injected"])
    assert not batch["kind"].any()


def test_a_label_is_made_where_there_is_none() -> None:
    result = InjectSources(PointSource(), 100.0)(empty_cutouts(16))
    assert result["label"].dtype == torch.int64
    assert torch.equal(result["label"].bool(), result["injected"])
    assert "label" not in InjectSources(PointSource(), 100.0, label=None)(empty_cutouts(2))


def test_columns_of_targets_without_a_source() -> None:
    result = InjectSources(Sersic(), 100.0, fraction=0.5, prefix="disc")(empty_cutouts(16))
    without = ~result["disc"]
    assert without.any()
    assert not result["disc_flux"][without].any()
    for name in ("disc_position", "disc_radius", "disc_index", "disc_axis_ratio", "disc_angle"):
        assert result[name][without].isnan().all()
        assert not result[name][~without].isnan().any()


def test_two_modules_add_two_sources() -> None:
    both = Compose([EVERY(PointSource()), EVERY(Sersic(0.2), seed=1, prefix="companion", label=None)])
    result = both(empty_cutouts(4, 1, 61, 64))
    assert result["image"].sum((1, 2, 3)).tolist() == pytest.approx([2000.0] * 4, rel=1e-3)
    with pytest.raises(ConfigurationError, match="another prefix="):
        Compose([EVERY(PointSource()), EVERY(PointSource(), seed=1)])(empty_cutouts(2))


# Noise


def test_noise_of_a_source_has_its_variance() -> None:
    batch = empty_cutouts(32)
    clean = EVERY(Sersic(), flux_njy=1e5)(batch)
    noisy = EVERY(Sersic(), flux_njy=1e5, noise=[10.0, 20.0, 40.0])(batch)
    expected = clean["image"].clamp(min=0) / torch.tensor([10.0, 20.0, 40.0]).reshape(3, 1, 1)
    torch.testing.assert_close(noisy["variance"], 9 + expected)
    torch.testing.assert_close(noisy["ivar"], 1 / (9 + expected))
    bright = expected > 10
    pulls = (noisy["image"] - clean["image"])[bright] / expected[bright].sqrt()
    assert len(pulls) > 5000
    assert abs(pulls.mean()) < 0.05
    assert abs(pulls.var() - 1) < 0.05
    assert torch.equal(clean["variance"], batch["variance"])


# What stays as it is


def test_missing_bands_and_invalid_pixels_stay_as_they_are() -> None:
    batch = empty_cutouts(4)
    batch["band_present"][0, 1] = batch["psf_present"][0, 1] = False
    batch["psf"][0, 1] = 0
    batch["valid"][1, 0, 15:25, 20:30] = False
    batch["image"][1, 0, 15:25, 20:30] = float("nan")
    batch["variance"][2, 2, 18:20] = 0
    result = EVERY(PointSource(), noise=20.0)(batch)
    assert result["injected"].all()
    assert not result["image"][0, 1].any()
    assert result["image"][0, 0].sum() > 900
    assert result["injected_flux"][0, 1] == 1000
    assert result["image"][1, 0, 15:25, 20:30].isnan().all()
    assert torch.equal(result["variance"][1, 0, 15:25, 20:30], batch["variance"][1, 0, 15:25, 20:30])
    assert not result["image"][2, 2, 18:20].any()
    assert result["image"][2, 2, 17].any()
    names = set(batch) - {"image", "variance", "ivar"}
    same({name: result[name] for name in names}, {name: batch[name] for name in names})


def test_a_band_without_a_psf_keeps_a_target_without_a_source() -> None:
    batch = empty_cutouts(5)
    batch["psf_present"][0, 1] = False
    batch["psf_present"][1] = False
    batch["band_present"][2] = batch["psf_present"][2] = False
    batch["wcs"][2] = torch.nan
    batch["psf"][3, 0] = torch.nan
    result = EVERY(PointSource())(batch)
    assert result["injected"].tolist() == [False, False, False, False, True]
    assert result["label"].tolist() == [0, 0, 0, 0, 1]
    assert torch.equal(result["image"][:4], batch["image"][:4])


@pytest.mark.parametrize("count", [0, 1])
@models
def test_few_targets(model, count: int) -> None:
    result = EVERY(model, noise=20.0)(empty_cutouts(count))
    assert result["image"].shape == (count, 3, 40, 52)
    assert len(result["injected"]) == len(result["label"]) == count


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_images_in_other_precisions(dtype: torch.dtype, tolerance: float) -> None:
    batch = empty_cutouts(2)
    wanted = EVERY(Sersic())(batch)["image"]
    found = EVERY(Sersic())(batch | {"image": batch["image"].to(dtype)})["image"]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=1e-5)


def test_a_psf_larger_than_the_cutout() -> None:
    large, small = (
        EVERY(Sersic(), side=75)(empty_cutouts(2, 1, 64, 64)),
        EVERY(Sersic(), side=75)(empty_cutouts(2, 1, 10, 16)),
    )
    torch.testing.assert_close(small["image"], large["image"][:, :, 27:37, 24:40], atol=1e-3, rtol=1e-5)


def test_a_source_at_the_edge_is_cut() -> None:
    whole, moved = empty_cutouts(1, 1, 64, 64), empty_cutouts(1, 1, 64, 64)
    moved["offset"] += torch.tensor([31.0, -40.0])
    options = {"side": 135, "flux_njy": 1000.0, "fraction": 1.0}
    wanted, found = (InjectSources(PointSource(), **options)(one)["image"] for one in (whole, moved))
    torch.testing.assert_close(found[:, :, 31:, :24], wanted[:, :, :33, 40:], atol=1e-3, rtol=1e-5)
    far = empty_cutouts(1, 1, 64, 64)
    far["offset"] += 1e6
    assert not InjectSources(PointSource(), **options)(far)["image"].any()


@pytest.mark.parametrize("turn", [RandomD4(3), RandomRotation(max_angle=180, kernel="quintic"), RandomShift(4)])
def test_other_augmentations_before_and_after(turn) -> None:
    """Sky, PSF and source turn together, so that the order does not matter, for rotations to the interpolation."""
    batch = empty_cutouts(8, 2, 51, 51)
    skewed = batch["psf"] * torch.linspace(0.5, 2, 35) * torch.linspace(2, 1, 35).unsqueeze(1)
    batch["psf"] = skewed
    source = InjectSources(Sersic(radius=0.6), 1000.0, fraction=0.8, distance=1.0)
    first, last = turn(source(batch)), source(turn(batch))
    assert torch.equal(first["injected_position"].isnan(), last["injected_position"].isnan())
    torch.testing.assert_close(first["injected_position"], last["injected_position"], rtol=0, atol=1e-8, equal_nan=True)
    inner = (slice(None), slice(None), slice(12, 39), slice(12, 39))
    tolerance = 5e-3 if isinstance(turn, RandomRotation) else 1e-5
    assert (first["image"] - last["image"])[inner].abs().max() < tolerance * first["image"].max()


def test_copies_and_pickles_inject_the_same() -> None:
    batch, module = empty_cutouts(4), EVERY(MODELS["lens"])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(batch)["image"], module(batch)["image"])


# Arguments


def test_numbers_of_numpy_are_numbers() -> None:
    measured, batch = [0.2, 0.5, 0.7, 1.1], empty_cutouts(8)
    plain = InjectSources(Sersic(measured, index=2), flux_njy=(100, 900), fraction=0.5, distance=1.0, noise=20)
    given = InjectSources(
        Sersic([*np.array(measured)], index=np.int64(2)),
        flux_njy=(np.float32(100), np.int32(900)),
        fraction=np.float32(0.5),
        distance=np.float64(1),
        noise=np.float32(20),
    )
    same(given(batch), plain(batch))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InjectSources(Sersic, 1.0), r"create an object: Sersic"),
        (lambda: InjectSources("Sersic", 1.0), "model must be a source"),
        (lambda: InjectSources(PointSource()), "give flux_njy or magnitude"),
        (lambda: InjectSources(PointSource(), 1.0, magnitude=20), "not both"),
        (lambda: InjectSources(PointSource(), 0.0), "flux_njy must be above 0"),
        (lambda: InjectSources(PointSource(), (5.0, 1.0)), "low <= high"),
        (lambda: InjectSources(PointSource(), "bright"), "flux_njy"),
        (lambda: InjectSources(PointSource(), {"g": 1.0}), "must have each of them"),
        (lambda: InjectSources(PointSource(), [1.0, 2.0, 3.0], bands="gr"), "3 numbers for the 2 bands"),
        (lambda: InjectSources(PointSource(), magnitude=(24, 20)), "magnitude"),
        (lambda: InjectSources(PointSource(), magnitude=float("nan")), "magnitude"),
        (lambda: InjectSources(PointSource(), 1.0, colours=0.5), "colours"),
        (lambda: InjectSources(PointSource(), 1.0, colours=[[1, 2, 3]]), "colours"),
        (lambda: InjectSources(PointSource(), 1.0, fraction=1.5), "fraction"),
        (lambda: InjectSources(PointSource(), 1.0, distance=-1), "distance"),
        (lambda: InjectSources(PointSource(), 1.0, noise=0.0), "noise"),
        (lambda: InjectSources(PointSource(), 1.0, label=""), "label"),
        (lambda: InjectSources(PointSource(), 1.0, prefix=None), "prefix"),
        (lambda: InjectSources(PointSource(), 1.0, side=0), "side"),
        (lambda: InjectSources(PointSource(), 1.0, stages=["predict"]), "stages"),
        (lambda: Sersic(radius=-1), "radius"),
        (lambda: EVERY(PointSource(), stages=None), "stages must be some of train, val, test, got None"),
        (lambda: EVERY(PointSource(), stages=[["val"]]), "stages must be some of train, val, test"),
        (
            lambda: EVERY(PointSource(), colours={"g": 0.1}, bands=True),
            "bands must be names of bands, such as 'gri', got True",
        ),
        (lambda: EVERY(PointSource(), noise=[]), r"noise must be a number, or have one for each band, got \[\]"),
        (lambda: EVERY(PointSource(), colours=[]), r"colours must .* got \[\]"),
        (lambda: Sersic(index=0.3), "index .* at least 0.5 and at most 8"),
        (lambda: Sersic(axis_ratio=(0.5, 1.5)), "axis_ratio"),
        (lambda: Sersic(radius=[]), "radius"),
        (lambda: Lens(axis_ratio=0.1), "axis_ratio"),
        (lambda: Lens(galaxy_colours=["red"]), "galaxy_colours"),
        (lambda: Stamps(np.zeros((1, 5, 5)), 0.1), "flux above 0"),
        (lambda: Lens(galaxy_colours=[float("nan")]), "galaxy_colours must be a list of magnitudes"),
        (lambda: Stamps([[[1.0, 2.0], [3.0]]], 0.1), "stamps must be images of numbers with one size"),
        (lambda: Stamps([[["bright"]]], 0.1), "stamps must be images of numbers"),
        (lambda: Stamps(np.ones((5, 5)), 0.1), "shape"),
        (lambda: Stamps("nowhere.npy", 0.1), "nowhere.npy"),
        (lambda: Stamps(np.ones((1, 5, 5)), 0), "pixel_scale"),
    ],
)
def test_wrong_arguments_of_an_injection(make, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({}, {"psf": None}, "'psf'.*add it to planes"),
        ({}, {"wcs": None}, "'wcs'"),
        ({}, {"psf": torch.ones(4, 3, 10, 11)}, "odd sides.*10 x 11"),
        ({"flux_njy": [1.0, 2.0, 3.0, 4.0]}, {}, "flux_njy has 4 bands, but the batch has 3"),
        ({"colours": [1.0, 2.0]}, {}, "colours has 2 bands, but the batch has 3"),
        ({"noise": [1.0, 2.0]}, {}, "noise has 2 bands, but the batch has 3"),
        ({}, {"label": ["a", "b", "c", "d"]}, "'label' must be a number"),
        ({}, {"injected": torch.zeros(4)}, "another prefix="),
        ({"model": Lens(galaxy_colours=[0, 1])}, {}, "galaxy_colours has 2 bands, but the batch has 3"),
        ({"model": Stamps(np.ones((1, 2, 5, 5)), 0.1)}, {}, "stamps have 2 bands, but the batch has 3"),
    ],
)
def test_batches_that_do_not_fit(options, change, words: str) -> None:
    batch = {name: v for name, v in (empty_cutouts(4) | change).items() if v is not None}
    with pytest.raises(ConfigurationError, match=words):
        InjectSources(**{"model": PointSource(), "flux_njy": 1.0, "fraction": 1.0} | options)(batch)
