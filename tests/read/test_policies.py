"""What becomes of missing bands, pixels without a value and pixels that are bad."""

from collections.abc import Iterator

import numpy as np
import pytest

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, MissingBandError, PlaneError, QualityError
from lsstcutouts.plan.quality import Outcome, Quality, QualityPolicy
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository

from ..support.delivery import SIZE, deliver, plan_of
from ..support.oracle import expected

ALL = ("image", "variance", "ivar", "valid")


@pytest.fixture(scope="module", params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


# Missing bands


def test_nan_marks_absent_bands_and_nothing_else(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    zero, nan = (deliver(plan, planes=ALL, missing_band=word).batch for word in ("zero", "nan"))
    absent = ~zero["band_present"]
    assert absent.any()
    for name in ("image", "variance"):
        assert np.isnan(nan[name][absent]).all()
        np.testing.assert_array_equal(nan[name][~absent], zero[name][~absent])
    assert not nan["ivar"][absent].any()
    assert not nan["valid"][absent].any()
    np.testing.assert_array_equal(zero["quality"] & Quality.BAND_ABSENT != 0, absent)


def test_targets_without_a_band_are_left_out_and_listed(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    whole = deliver(plan).batch
    for options, lacks in [
        ({"missing_band": "skip"}, ~whole["band_present"].all(axis=1)),
        ({"required_bands": ("g",)}, ~whole["band_present"][:, 0]),
        ({"min_bands": 3}, ~whole["band_present"].all(axis=1)),
        ({"min_bands": 2}, whole["band_present"].sum(axis=1) < 2),
    ]:
        delivery = deliver(plan, **options)
        np.testing.assert_array_equal(delivery.batch_report.outcome == Outcome.MISSING_BAND, lacks)
        np.testing.assert_array_equal(delivery.batch["object_id"], plan.object_id[~lacks])
        np.testing.assert_array_equal(delivery.batch["image"], whole["image"][~lacks])


def test_an_absent_band_raises_where_it_must(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    with pytest.raises(
        MissingBandError, match=r"target \d+ \(catalog row \d+, ra .*has no 'deep_coadd' in [gi]; .*zeros"
    ):
        deliver(plan, missing_band="raise")


def test_an_emptied_batch_keeps_a_row_of_padding_for_loaders_only(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    lacking = np.flatnonzero(~deliver(plan).batch["band_present"].all(axis=1))[:3]
    padded = deliver(plan, lacking, pad=True, missing_band="skip").batch
    assert padded["is_padding"].tolist() == [True]
    assert padded["image"].shape[0] == 1
    empty = deliver(plan, lacking, missing_band="skip").batch
    assert empty["image"].shape == (0, 3, *SIZE)
    assert len(empty["object_id"]) == 0


# Validity, inverse variance, fill


def test_inverse_variance_is_finite_and_zero_without_information(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    batch = deliver(plan, planes=("ivar",)).batch
    assert set(batch) & {"image", "variance", "mask", "valid"} == set()
    assert np.isfinite(batch["ivar"]).all()
    for target in range(len(plan)):
        want = expected(repo, plan, target)
        good = want.valid & np.isfinite(want.variance) & (want.variance > 0)
        inverse = np.zeros_like(want.variance)
        inverse[good] = np.float32(1) / want.variance[good]
        np.testing.assert_array_equal(batch["ivar"][target], inverse)


def test_fill_with_nan_marks_exactly_the_pixels_without_a_value(repo: SimulatedRepository) -> None:
    plan = plan_of(repo, size=(90, 150))
    zero, nan = (deliver(plan, planes=("image", "valid"), fill=value).batch for value in (0, float("nan")))
    for target in range(len(plan)):
        want = expected(repo, plan, target)
        no_value = want.present[:, None, None] & ~want.has_value
        np.testing.assert_array_equal(np.isnan(nan["image"][target]), no_value)
        np.testing.assert_array_equal(nan["image"][target][~no_value], zero["image"][target][~no_value])


def test_noise_fills_what_is_not_valid_and_repeats(repo: SimulatedRepository) -> None:
    plan = plan_of(repo, size=(90, 150))
    plain = deliver(plan, planes=("image", "variance", "valid")).batch
    one, two, other = (
        deliver(plan, rows, planes=("image",), seed=seed, fill="noise").batch["image"]
        for rows, seed in ((None, 3), (np.arange(len(plan))[::-1], 3), (None, 4))
    )
    np.testing.assert_array_equal(one, two[::-1])
    hole = ~plain["valid"] & plain["band_present"][:, :, None, None]
    # A band of which nothing is valid has no noise to imitate.
    hole &= plain["valid"].any(axis=(2, 3), keepdims=True)
    np.testing.assert_array_equal(one[plain["valid"]], plain["image"][plain["valid"]])
    assert not np.array_equal(one[hole], other[hole])
    assert np.isfinite(one).all()
    sigma = np.array([np.sqrt(np.median(v[g])) if g.any() else np.nan for v, g in _planes(plain)])
    drawn = (one / sigma.reshape(hole.shape[:2])[:, :, None, None])[hole]
    assert len(drawn) > 3000
    assert 0.85 < drawn.std() < 1.15
    assert abs(drawn.mean()) < 0.05


def _planes(batch) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for variance, valid in zip(batch["variance"], batch["valid"], strict=True):
        for v, g in zip(variance, valid, strict=True):
            yield v, g & np.isfinite(v) & (v > 0)


# Quality


def test_quality_bits_equal_a_count_of_the_pixels(repo: SimulatedRepository) -> None:
    plan = plan_of(repo, size=(60, 61))
    names = ("NO_DATA", "DETECTED", "SATURATED")
    pixels = deliver(plan, planes=("image", "variance", "mask", "valid"), mask_planes=names).batch
    policy = QualityPolicy(
        min_valid={"g": 0.9, "i": 0.5},
        max_masked={"DETECTED": 0.2},
        max_masked_centre={"SATURATED": 0.0, "DETECTED": 0.9},
        centre=(5, 8),
        positive_variance=True,
        peak_margin=4,
    )
    # The mask is not delivered here, and read for the policy alone.
    quality = deliver(plan, planes=("image",), quality=policy).batch["quality"]
    for n in range(len(plan)):
        for b, band in enumerate("gri"):
            valid, image = pixels["valid"][n, b], pixels["image"][n, b]
            want = 0
            if not pixels["band_present"][n, b]:
                want = Quality.BAND_ABSENT
            else:
                detected, saturated = (pixels["mask"][n, b] & bit != 0 for bit in (2, 4))
                centre = slice(27, 32), slice(26, 34)
                want |= Quality.FEW_VALID * (valid.mean() < {"g": 0.9, "r": 0.0, "i": 0.5}[band])
                want |= Quality.MASKED * (detected.mean() > 0.2)
                want |= Quality.MASKED_CENTRE * (saturated[centre].any() or detected[centre].mean() > 0.9)
                variance = pixels["variance"][n, b][valid]
                want |= Quality.BAD_VARIANCE * (not (np.isfinite(variance) & (variance > 0)).all())
                y, x = np.unravel_index(np.where(valid, image, -np.inf).argmax(), image.shape)
                inside = 4 <= y < 56 and 4 <= x < 57
                want |= Quality.PEAK_AT_EDGE * (not inside and valid.any())
                want |= quality[n, b] & Quality.PARTLY_COVERED
            assert quality[n, b] == want, (n, band)
    for flag in (Quality.FEW_VALID, Quality.MASKED, Quality.MASKED_CENTRE, Quality.PEAK_AT_EDGE):
        assert (quality & flag).any(), flag


def test_the_policy_flags_skips_or_raises(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    flagged = deliver(plan, quality=QualityPolicy(max_masked={"DETECTED": 0.3})).batch
    bad = (flagged["quality"] & Quality.MASKED).any(axis=1)
    assert 0 < bad.sum() < len(plan)
    assert len(flagged["object_id"]) == len(plan)
    skipped = deliver(plan, quality=QualityPolicy(max_masked={"DETECTED": 0.3}, action="skip"))
    np.testing.assert_array_equal(skipped.batch["object_id"], plan.object_id[~bad])
    np.testing.assert_array_equal(skipped.batch_report.outcome == Outcome.QUALITY, bad)
    with pytest.raises(QualityError, match=r"target \d+ .*fails the quality policy \([gri]: MASKED"):
        deliver(plan, quality=QualityPolicy(max_masked={"DETECTED": 0.3}, action="raise"))


def test_wrong_words(dp2_repo: SimulatedRepository) -> None:
    for options, words in [
        ({"missing_band": "zeros"}, "did you mean 'zero'"),
        ({"on_read_error": "ignore"}, "raise, mask, skip"),
        ({"fill": "nois"}, "fill must be"),
        ({"fill": 3.0}, "fill must be"),
        ({"flux_unit": "mJy"}, "flux_unit must be one of nJy, native"),
        ({"seed": -1}, "seed must be"),
        ({"normalise_psf": "yes"}, "normalise_psf must be true or false"),
        ({"quality": {"min_valid": 1}}, "QualityPolicy"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            ReaderOptions(**options)
    for options, words in [
        ({"required_bands": ("z",)}, "required_bands has 'z'"),
        ({"min_bands": 4}, "min_bands must be an integer from 0 to 3, the number of bands, got 4"),
        ({"min_bands": "2"}, "min_bands must be an integer from 0 to 3, the number of bands, got '2'"),
        ({"quality": QualityPolicy(min_valid={"z": 0.5})}, "min_valid has the band 'z'"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=8, read=ReadOptions(**options))
    for arguments, words in [
        ({"min_valid": 2}, "between 0 and 1"),
        ({"action": "drop"}, "flag, skip or raise"),
        ({"centre": 0}, "at least 1 pixel"),
        ({"centre": (3,)}, r"height, width"),
        ({"peak_margin": -1}, "integer numbers of pixels"),
        ({"positive_variance": "no"}, "positive_variance must be true or false"),
        ({"max_masked": 0.1}, "must map mask planes to fractions"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            QualityPolicy(**arguments)
    plan = plan_of(dp2_repo)
    with pytest.raises(ConfigurationError, match="peak_margin=16 is too large for a box of 32 x 45"):
        CutoutReader(plan, ReaderOptions(quality=QualityPolicy(peak_margin=16)))
    with pytest.raises(PlaneError, match=r"did you mean 'SATURATED'"):
        deliver(plan, [0], quality=QualityPolicy(max_masked={"saturated": 0.1}))
    with pytest.raises(PlaneError, match=r"no mask plane 'STRANGE'.*available: "):
        deliver(plan, [0], quality=QualityPolicy(max_masked={"STRANGE": 0.1}))


# Fetching


def test_positions_without_coverage_follow_the_policy_of_missing_bands(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    ra, dec = np.append(catalog.ra[:3], 200.0), np.append(catalog.dec[:3], 45.0)

    def fetch(**options):
        with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=16, **options) as fetcher:
            return fetcher.fetch(ra, dec), fetcher.report

    batch, report = fetch()
    assert batch["tract"].tolist()[3] == -1
    assert (batch["quality"][3] == Quality.BAND_ABSENT).all()
    assert np.isnan(batch["wcs"][3]).all()
    assert report.counts() == {Outcome.DELIVERED: 3, Outcome.OUTSIDE_TRACTS: 1}
    assert np.isnan(fetch(read=ReadOptions(missing_band="nan"))[0]["image"][3]).all()
    assert fetch(read=ReadOptions(min_bands=1))[0]["object_id"].tolist() == [0, 1, 2]
    with pytest.raises(MissingBandError, match="row 3"):
        fetch(read=ReadOptions(missing_band="raise"))


def test_a_report_before_any_fetch_is_refused(dp2_repo: SimulatedRepository) -> None:
    refused = pytest.raises(ConfigurationError, match="there is no report yet")
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="g", size=8) as fetcher, refused:
        _ = fetcher.report
