"""The doctor on a broken torch and on GPUs: torch's functions answer as they would for other builds and cards."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lsstcutouts.app.doctor import Result, Settings, compute, diagnose
from lsstcutouts.app.doctor.compute import EXPECTED, convolve, gpu_bytes, runs_on

from ..support.doctor import GB, one

DEFAULT_WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
PASCAL_WHEEL = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
P600, A100, B200 = ("Quadro P600", (6, 1)), ("A100", (8, 0)), ("B200", (10, 0))

type See = Callable[..., None]


@pytest.fixture
def see(monkeypatch: pytest.MonkeyPatch) -> See:
    """Let torch see these GPUs: names and capabilities; ``values`` are those of the convolution on a device."""

    def answer(
        gpus=(), targets=PASCAL_WHEEL, version="2.9.0", cuda="12.6", memory=(2 * GB, 2 * GB), driver=False, values=()
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: gpus[i][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i][1])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(targets))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: memory)
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(compute, "_DRIVER", Path("/" if driver else "/nowhere"))
        monkeypatch.setattr(compute, "convolve", lambda device: dict(values).get(device, EXPECTED))

    return answer


@pytest.mark.parametrize(
    "error", ["ModuleNotFoundError('no torch')", "OSError('libcudart.so.13: cannot open\\nshared object')"]
)
def test_a_torch_that_does_not_import_fails_and_the_gpu_is_not_tried(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("torch", compute.__name__):
        monkeypatch.delitem(sys.modules, module)
    failed, gpu = diagnose(names=("torch", "gpu")).results.values()
    assert failed.status == "fail"
    assert failed.detail.startswith(error.partition("(")[0])
    assert "pip install" in failed.todo
    assert gpu == Result("fail", "not tried, because 'torch computes' failed", "see 'torch computes'")


def test_the_convolution_gives_the_expected_values() -> None:
    assert convolve("cpu") == list(EXPECTED)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        *(([*EXPECTED[:7], wrong, *EXPECTED[8:]], f"({wrong} for 708; 1 of 43") for wrong in (float("nan"), 1e99, 0.0)),
        (EXPECTED[:3], "(nan for 492; 40 of 43"),
    ],
)
def test_a_torch_that_computes_wrongly_fails(values: list[float], words: str, see: See) -> None:
    see(values={"cpu": values})
    result = one("torch")
    assert result.status == "fail"
    assert f"wrong result {words} values)" in result.detail


LARGE = Settings(bands="ugrizy", size=256, batch_size=512)
LIMITS = r"2.0 of 2.0 GB free: .*no torch.compile, no bfloat16 .*wire=float16.*precision 32-true"


@pytest.mark.parametrize(
    ("seen", "settings", "status", "detail", "todo"),
    [
        (
            {"gpus": [P600], "targets": DEFAULT_WHEEL},
            None,
            "fail",
            "no code for it, only for sm_75",
            "'torch<2.8'.*cu126",
        ),
        ({"gpus": [P600]}, None, "pass", LIMITS, "^$"),
        ({"gpus": [P600]}, LARGE, "fail", f"takes about {gpu_bytes(512 * 6 * 4 << 16) / GB:.1f} GB", "batch_size"),
        ({"gpus": [B200]}, None, "fail", r"^GPU 0 \(B200, sm_100\): torch 2.9.0 has", "^pip install --upgrade torch$"),
        ({"gpus": [A100]}, None, "pass", "convolution and gradients are right$", "^$"),
        ({"gpus": [A100], "targets": ("gfx942",)}, None, "pass", "gradients are right$", "^$"),  # ROCm
        ({"gpus": [P600, P600], "values": {"cuda:1": [0.0] * 43}}, None, "fail", "^GPU 1.*wrong", "reinstall"),
        ({}, None, "warn", "^torch 2.9.0 sees no GPU", "CPU is slower"),
        ({"driver": True}, None, "warn", r"driver, but torch 2.9.0 \(CUDA 12.6\) sees no GPU", "nvidia-smi"),
        ({"driver": True, "cuda": None}, None, "warn", "a build without CUDA", "CPU wheel index"),
    ],
)
def test_gpus(seen: dict[str, Any], settings: Settings | None, status: str, detail: str, todo: str, see: See) -> None:
    see(**seen)
    result = one("gpu", settings)
    assert result.status == status
    assert re.search(detail, result.detail)
    assert re.search(todo, result.todo)


def test_the_page_on_small_gpus_quotes_what_is_printed(see: See) -> None:
    page = (Path(__file__).parents[2] / "docs" / "small-gpus.md").read_text()
    quoted = " ".join(re.sub(r"│ (fail|pass)? +│ (GPU)? +│", " ", page).replace("│", " ").split())
    volta = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    for version, targets, settings in (
        ("2.8.0", volta, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings()),
        ("2.7.1", PASCAL_WHEEL, Settings(size=256, batch_size=128)),
    ):
        see([P600], version=version, targets=targets, memory=(1_950_000_000, 2_100_000_000))
        result = one("gpu", settings)
        assert f"{result.detail} {result.todo and '-> ' + result.todo}".strip() in quoted
    for size, batch, figure in re.findall(r"\| (\d+) \| (\d+) \| ([\d.]+) GB \|", page):
        assert f"{gpu_bytes(Settings(size=int(size), batch_size=int(batch)).batch_bytes) / GB:.2f}" == figure


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
