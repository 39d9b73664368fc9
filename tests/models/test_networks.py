"""The models of the package: losses against torch's own functions, targets, and shapes that do not fit."""

import pytest
import torch
from torch import nn

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.models import Classifier, LensClassifier, LensFinder, Regressor


def batch(label: object, count: int = 4) -> dict[str, object]:
    torch.manual_seed(0)
    return {
        "image": torch.randn(count, 3, 16, 16),
        "label": label,
        "object_id": torch.arange(count),
        "is_padding": torch.zeros(count, dtype=torch.bool),
    }


class Fixed(nn.Module):
    """A network that returns what it is told."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.float64, torch.bool])
def test_binary_targets_of_any_type(dtype: torch.dtype) -> None:
    model = LensClassifier(Fixed(torch.zeros(4, 1)))
    target = model._target(batch(torch.tensor([0, 1, 1, 0]).to(dtype)))
    assert target.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert model(torch.zeros(4, 3, 8, 8)).shape == (4,)  # (N, 1) is taken for (N,)


def test_class_targets_follow_the_order_of_the_classes() -> None:
    texts = Classifier(Fixed(torch.zeros(4, 3)), ["star", "galaxy", "qso"])
    assert texts._target(batch(["qso", "star", "galaxy", "qso"])).tolist() == [2, 0, 1, 2]
    gaps = Classifier(Fixed(torch.zeros(4, 3)), [7, 0, 2])
    assert gaps._target(batch(torch.tensor([0, 2, 7, 0]))).tolist() == [1, 2, 0, 1]
    assert gaps._target(batch(torch.tensor([0.0, 2.0, 7.0, 0.0]))).tolist() == [1, 2, 0, 1]
    logits = torch.tensor([[0.0, 3.0, 0.0]] * 4)
    expected = nn.functional.cross_entropy(logits, torch.tensor([1, 2, 0, 1]), reduction="none")
    assert torch.equal(gaps.losses(logits, torch.tensor([1, 2, 0, 1])), expected)
    counted = Classifier(LensFinder("gri", [4], outputs=3), 3).eval()
    found = counted.predict_step(batch(None), 0)
    assert set(found) == {"object_id", "predicted", "score", "score_0", "score_1", "score_2"}
    assert torch.allclose(found["score_0"] + found["score_1"] + found["score_2"], torch.ones(4))
    assert torch.equal(found["score"], torch.stack([found[f"score_{k}"] for k in range(3)]).max(0).values)
    assert texts.predict_step(batch(None), 0)["predicted"] == ["star"] * 4


def test_a_regression_learns_in_units_of_the_spread_and_predicts_in_those_of_the_label() -> None:
    model = Regressor(Fixed(torch.tensor([0.0, 1.0, -1.0, 2.0])), center=20.0, spread=0.5)
    target = model._target(batch(torch.tensor([20.0, 20.5, 19.0, 21.0], dtype=torch.float64)))
    assert target.tolist() == [0.0, 1.0, -2.0, 2.0]
    assert model.predict_step(batch(None), 0)["predicted"].tolist() == [20.0, 20.5, 19.5, 21.0]
    squared = Regressor(Fixed(torch.zeros(4)), loss="mse")
    assert squared.losses(torch.zeros(2), torch.tensor([1.0, 3.0])).tolist() == [1.0, 9.0]
    assert model.losses(torch.zeros(2), torch.tensor([1.0, 3.0])).tolist() == [0.5, 2.5]
    model.r2(torch.tensor([1.0]), torch.tensor([1.0]))
    assert model.r2.compute().isnan()


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (LensClassifier(Fixed(torch.zeros(4))), torch.tensor([0.0, 0.5, 1, 1]), "task=binary needs 0 and 1"),
        (LensClassifier(Fixed(torch.zeros(4))), ["a", "b", "a", "b"], "contains strings"),
        (Classifier(Fixed(torch.zeros(4, 2)), 2), torch.tensor([0, 1, 2, 1]), "not one of the classes"),
        (Regressor(Fixed(torch.zeros(4))), torch.tensor([0, torch.nan, 1, 1]), "1 of 4 labels"),
        (LensClassifier(Fixed(torch.zeros(4))), None, "no column 'label'"),
    ],
)
def test_labels_of_a_plain_loader_are_checked_in_each_batch(model: LensClassifier, labels: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        model._target(batch(labels))


@pytest.mark.parametrize("output", [torch.zeros(4, 3), (torch.zeros(4),), torch.zeros(3), {"logit": torch.zeros(4)}])
def test_networks_of_another_shape(output: object) -> None:
    with pytest.raises(ConfigurationError, match=r"Fixed returns .* LensClassifier needs a tensor of the shape \(4,\)"):
        LensClassifier(Fixed(output))(torch.zeros(4, 3, 8, 8))
    with pytest.raises(ConfigurationError, match=r"Classifier needs a tensor of the shape \(4, 5\)"):
        Classifier(Fixed(output), 5)(torch.zeros(4, 3, 8, 8))


@pytest.mark.parametrize("classes", [1, ["a"], ["a", "a"], [0, "a"], [0.5, 1.5]])
def test_classes_that_cannot_be(classes: object) -> None:
    with pytest.raises(ConfigurationError, match="two or more distinct"):
        Classifier(Fixed(None), classes)  # type: ignore[arg-type]


def test_settings_that_cannot_be() -> None:
    for wrong in ({"loss": "l1"}, {"spread": 0.0}):
        with pytest.raises(ConfigurationError, match="loss="):
            Regressor(Fixed(None), **wrong)  # type: ignore[arg-type]
    for arguments in ({"widths": ()}, {"widths": (4, 0)}, {"outputs": 0}):
        with pytest.raises(ConfigurationError, match="must be positive"):
            LensFinder("gri", **arguments)  # type: ignore[arg-type]
