"""Against what AION documents, written anew: names, units, ranges, pixels; and against sources of known flux."""

import numpy as np
import pytest
import torch

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.transforms import ToAion

from ..support.adapting import gaussian, sky_batch

LIMITS = {
    # BAND_CENTER_MAX of aion/codecs/preprocessing/band_to_index.py, polymathic-aion 0.0.2
    "hsc": {"HSC-G": 80, "HSC-R": 110, "HSC-I": 200, "HSC-Z": 330, "HSC-Y": 500},
    "legacy": {"DES-G": 6, "DES-R": 15, "DES-I": 20, "DES-Z": 25},
}
PIXEL = {"hsc": 0.168, "legacy": 0.262}  # _pixel_scale of the Multimodal Universe's builders of both
ZERO_POINT = {"hsc": 27.0, "legacy": 22.5}  # RescaleToLegacySurvey of aion/codecs/preprocessing/image.py

SURVEYS = pytest.mark.parametrize("survey", ["hsc", "legacy"])


@SURVEYS
def test_a_source_of_known_magnitude(survey: str) -> None:
    """A Gaussian of 0.75 arcsec (FWHM) and 20 mag (AB), 31.4 - 2.5 log10(nJy): every pixel has the flux that falls on it."""
    sigma, at, magnitude = 0.75 / 2.355, (0.31, -0.17), 20.0
    image = 10 ** ((31.4 - magnitude) / 2.5) * gaussian((129, 150), sigma, at, 0.2)
    batch = {"image": torch.from_numpy(image.astype(np.float32)).expand(2, 5, -1, -1)}
    flux = ToAion("grizy", survey, clamp=False)(batch)["image"]
    total = flux.double().sum((2, 3))
    np.testing.assert_allclose(ZERO_POINT[survey] - 2.5 * total.log10().numpy(), magnitude, atol=1e-6)
    there = 10 ** ((ZERO_POINT[survey] - magnitude) / 2.5) * gaussian((96, 96), sigma, at, PIXEL[survey])
    error = np.abs(flux[0, 0].numpy() - there).max() / there.max()
    assert error < 0.006


@SURVEYS
def test_names_and_ranges(survey: str) -> None:
    adapter = ToAion("yzirg", survey)
    assert list(adapter.band_names) == list(LIMITS[survey])
    batch = sky_batch("yzirg", (130, 127))
    batch["image"] = torch.where(torch.rand(batch["image"].shape) > 0.5, 1e9, -1e9)
    flux = adapter(batch)["image"]
    for sign in (flux.amax((0, 2, 3)), -flux.amin((0, 2, 3))):
        assert sign.tolist() == list(LIMITS[survey].values())
    assert adapter.float()(batch)["image"].dtype == torch.float32


def test_bands_may_be_left_out_but_not_in_silence() -> None:
    with pytest.raises(
        ConfigurationError, match=r"needs the bands g,r,i,z,y, but bands='gri' has no z,y; read z,y too, .* with use="
    ):
        ToAion("gri")
    adapter = ToAion("ugri", use="ig")
    assert adapter.band_names == ("HSC-I", "HSC-G")
    batch = sky_batch("ugri", (90, 90))
    whole = ToAion("grizy")({"image": batch["image"][:, [1, 2, 3, 0, 0]], "valid": batch["valid"][:, [1, 2, 3, 0, 0]]})
    assert torch.equal(adapter(batch)["image"], whole["image"][:, [2, 0]])


def test_targets_of_the_same_bands_are_a_group() -> None:
    batch, adapter = sky_batch("grizy", (90, 90), 5), ToAion("grizy")
    batch["band_present"][1, 4] = batch["band_present"][3, 4] = batch["band_present"][4, 0] = False
    batch["band_present"][2] = False
    adapted = adapter(batch)
    found = {tuple(rows.tolist()): (flux, names) for rows, flux, names in adapter.groups(adapted)}
    assert found.keys() == {(0,), (1, 3), (4,)}  # target 2 has no band
    flux, names = found[1, 3]
    assert names == ["HSC-G", "HSC-R", "HSC-I", "HSC-Z"]
    assert torch.equal(flux, adapted["image"][[1, 3], :4])
    assert found[(4,)][1] == ["HSC-R", "HSC-I", "HSC-Z", "HSC-Y"]
    assert not list(adapter.groups({name: v[:0] for name, v in adapted.items()}))
    with pytest.raises(ConfigurationError, match="needs 'band_present'"):
        next(adapter.groups({"image": adapted["image"]}))


def test_larger_outputs_and_rectangles() -> None:
    """The codec cuts the middle 96 of more, which are the same pixels."""
    batch = sky_batch("grizy", (100, 120))
    wide = ToAion("grizy", size=(98, 112))(batch)["image"]
    torch.testing.assert_close(wide[:, :, 1:97, 8:104], ToAion("grizy")(batch)["image"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"survey": "sdss"}, "survey must be one of hsc, legacy, got 'sdss'"),
        ({"survey": ["hsc"]}, "survey must be one of hsc, legacy"),
        ({"clamp": "false"}, "clamp must be true or false, got 'false'"),
        ({"use": "gu"}, "use='gu' must be some of grizy"),
        ({"use": "y", "survey": "legacy"}, "use='y' must be some of griz"),
        ({"use": "gg"}, "use must be different names"),
        ({"use": ""}, "use must be different names"),
    ],
)
def test_wrong_surveys_and_bands(settings: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ToAion("ugrizy", **settings)


@SURVEYS
def test_aions_own_codec_changes_nothing_and_makes_tokens(survey: str) -> None:
    """Its crop and its ranges leave the flux as it is; its codec (with random weights) takes each group."""
    from aion.codecs.image import ImageCodec
    from aion.codecs.preprocessing.band_to_index import BAND_CENTER_MAX
    from aion.codecs.preprocessing.image import CenterCrop, Clamp, RescaleToLegacySurvey
    from aion.modalities import HSCImage, LegacySurveyImage

    assert {k: v for one in LIMITS.values() for k, v in one.items()} == BAND_CENTER_MAX
    adapter, batch = ToAion("yzirg", survey), sky_batch("yzirg", (126, 126))
    batch["band_present"][1, 4] = False
    adapted = adapter(batch)
    names = list(adapter.band_names)
    assert torch.equal(Clamp()(CenterCrop(96)(adapted["image"].clone()), names), adapted["image"])
    source = torch.from_numpy(50 * 3630.78 * gaussian((126, 126), 0.3, (0, 0), 0.2)).float().expand(1, 5, -1, -1)
    nanomaggies = RescaleToLegacySurvey().forward(
        ToAion("yzirg", survey, clamp=False)({"image": source})["image"], names[0][:3]
    )
    torch.testing.assert_close(nanomaggies.sum((2, 3)), torch.full((1, len(names)), 50.0))
    codec = ImageCodec(quantizer_levels=[8, 5, 5, 5], hidden_dims=8, multisurvey_projection_dims=12, embedding_dim=4)
    image = HSCImage if survey == "hsc" else LegacySurveyImage
    for rows, flux, bands in adapter.groups(adapted):
        with torch.no_grad():
            tokens = codec.encode(image(flux=flux, bands=bands))
        assert tokens.shape == (len(rows), image.num_tokens)
