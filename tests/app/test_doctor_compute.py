"""The doctor on a broken torch and on GPUs."""

import re
from pathlib import Path

import pytest

from lsstcutouts.app.doctor import Check, Machine, Settings, diagnose
from lsstcutouts.app.doctor.compute import EXPECTED, Gpu, gpu_bytes, runs_on

from ..support.doctor import DEFAULT_WHEEL, GB, P600, PASCAL_WHEEL, FakeTorch, SmallTorch, one


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torch'"), OSError("libcudart.so.13: cannot open\nshared object")]
)
def test_a_torch_that_does_not_import_fails_and_the_gpu_is_not_tried(error: Exception) -> None:
    torch, gpu = diagnose(machine=Machine(torch=FakeTorch(error=error)), names=("torch", "gpu"))
    assert torch.status == "fail"
    assert type(error).__name__ in torch.detail
    assert "pip install" in torch.todo
    assert gpu == Check("gpu", "fail", "not tried, because 'torch computes' failed", "see 'torch computes'")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_a_torch_that_computes_wrongly_fails(wrong: float) -> None:
    check = one("torch", torch=FakeTorch(results={"cpu": [*EXPECTED[:7], wrong, *EXPECTED[8:]]}))
    assert check.status == "fail"
    assert f"wrong result ({wrong} for 708)" in check.detail


def test_a_result_of_another_length_fails() -> None:
    assert "(3 values)" in one("torch", torch=FakeTorch(results={"cpu": list(EXPECTED[:3])})).detail


def test_a_pascal_card_without_code_for_it_gets_the_fix() -> None:
    check = one("gpu", torch=FakeTorch(targets=DEFAULT_WHEEL, cards=(P600,)))
    assert check.status == "fail"
    assert "GPU 0 (Quadro P600, sm_61): torch 2.9.0 has no code for it" in check.detail
    assert "pip install 'torch<2.8'" in check.todo
    assert "cu126" in check.todo


def test_a_pascal_card_with_code_for_it_passes() -> None:
    check = one("gpu", torch=FakeTorch(cards=(P600,)))
    assert check.status == "pass"
    assert "Quadro P600" in check.detail
    assert "2.0 of 2.0 GB free" in check.detail
    for words in ("no torch.compile", "no bfloat16", "wire=float16", "precision 32-true"):
        assert words in check.detail


def test_the_page_on_small_gpus_quotes_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "small-gpus.md").read_text()
    quoted = " ".join(re.sub(r"│ (fail|pass)? +│ (GPU)? +│", " ", page).replace("│", " ").split())
    volta = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    for version, targets, settings in (
        ("2.8.0", volta, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings(size=256, batch_size=128)),
    ):
        check = one("gpu", settings, torch=SmallTorch(version, targets=targets, cards=(P600,)))
        assert f"{check.detail} {check.todo and '-> ' + check.todo}".strip() in quoted
    for size, batch, figure in re.findall(r"\| (\d+) \| (\d+) \| ([\d.]+) GB \|", page):
        assert f"{gpu_bytes(Settings(size=int(size), batch_size=int(batch)).batch_bytes) / GB:.2f}" == figure


def test_a_card_of_today_has_no_limits_to_speak_of() -> None:
    check = one("gpu", torch=FakeTorch(cards=(Gpu("A100", (8, 0)),)))
    assert check.status == "pass"
    assert check.detail.endswith("convolution and gradients are right")


def test_a_card_that_is_newer_than_torch_wants_a_newer_torch() -> None:
    check = one("gpu", torch=FakeTorch(cards=(Gpu("B200", (10, 0)),)))
    assert (check.status, check.todo) == ("fail", "pip install --upgrade torch")


def test_too_little_gpu_memory_fails() -> None:
    settings = Settings(bands="ugrizy", size=256, batch_size=512)
    check = one("gpu", settings, torch=FakeTorch(cards=(P600,)))
    assert check.status == "fail"
    assert f"takes about {gpu_bytes(512 * 6 * 256 * 256 * 4) / GB:.1f} GB" in check.detail
    assert "batch_size" in check.todo


def test_a_gpu_that_computes_wrongly_fails_whatever_another_does() -> None:
    check = one("gpu", torch=FakeTorch(cards=(P600, P600), results={"cuda:1": [0.0] * len(EXPECTED)}))
    assert check.status == "fail"
    assert check.detail.startswith("GPU 1")


@pytest.mark.parametrize(
    ("platform", "driver", "words"),
    [
        ("CUDA 12.6", False, "sees no GPU"),
        ("CPU only", True, "a build without CUDA"),
        ("CUDA 12.6", True, "there is an NVIDIA driver"),
    ],
)
def test_no_gpu_is_a_warning(platform: str, driver: bool, words: str) -> None:
    check = one("gpu", torch=FakeTorch(platform=platform, has_driver=driver))
    assert check.status == "warn"
    assert words in check.detail


@pytest.mark.parametrize(
    ("capability", "targets", "runs"),
    [
        ((6, 1), ("sm_60",), True),
        ((6, 0), ("sm_61",), False),
        ((6, 1), DEFAULT_WHEEL, False),
        ((8, 9), ("sm_80", "sm_86"), True),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 0), ("sm_90",), False),
        ((10, 0), ("sm_90", "compute_90"), True),
        ((12, 0), ("sm_100", "sm_120"), True),
        ((6, 1), ("compute_70",), False),
        ((6, 1), (), False),
    ],
)
def test_code_runs_on_its_own_major_version_and_intermediate_code_on_later_ones(
    capability: tuple[int, int], targets: tuple[str, ...], runs: bool
) -> None:
    assert runs_on(capability, targets) is runs
