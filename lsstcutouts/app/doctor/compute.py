"""The second and third check: torch computes, and a GPU that it can use."""

import math
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from ...loader.capability import limits_of
from .check import Check, Finding, Visit

__all__ = ["Build", "Gpu", "InstalledTorch", "check_gpu", "check_torch", "gpu_bytes", "runs_on"]

_DRIVER = Path("/proc/driver/nvidia/version")

_OUTPUT = (312, 348, 384, 492, 528, 564, 672, 708, 744)
_TO_WEIGHT = (54, 63, 72, 99, 108, 117, 144, 153, 162)
_TO_IMAGE = (0, 1, 3, 3, 2, 3, 8, 15, 12, 7, 9, 21, 36, 27, 15, 9, 20, 33, 24, 13, 6, 13, 21, 15, 8)
EXPECTED = (*_OUTPUT, *_TO_WEIGHT, *_TO_IMAGE)
"""What the probe's convolution gives, worked out by hand in integers."""

_TOLERANCE = 1e-2
"""Absolute: far below the 1 by which a wrong sum differs, above the rounding of fast convolution algorithms."""

_BATCHES = 12
"""Batches' worth of GPU memory that a training step takes.

The batch, its turned copy and a third for the numbers of the pixels that go there, the next batch on its way in 32 and in
16 bit, 3.5 for what the example's network keeps for its gradients (measured), 3 for outputs and gradients under way.
"""

_WORKSPACE = 200_000_000
"""Bytes for the work space of cuDNN and cuBLAS."""

_TARGET = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")

_OLD_GPU = (
    "pip install 'torch<2.8' (the default wheels lost Maxwell and Pascal GPUs at 2.8), or a newer torch from PyTorch's "
    "own wheel index for CUDA 12.6 (cu126)"
)


@dataclass(frozen=True, slots=True)
class Build:
    """How torch was built.

    Attributes
    ----------
    version
        Of torch.
    platform
        ``"CUDA 12.6"``, ``"ROCm 6.2"`` or ``"CPU only"``.
    targets
        GPU architectures that it holds code for, such as ``"sm_75"`` or ``"compute_90"``.
    """

    version: str
    platform: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: its name and compute capability ``(major, minor)``."""

    name: str
    capability: tuple[int, int]


class InstalledTorch:
    """The torch of this Python, imported when it is first asked."""

    def build(self) -> Build:
        """Return how torch was built."""
        import torch

        platform = "CPU only"
        if torch.version.cuda:
            platform = f"CUDA {torch.version.cuda}"
        elif torch.version.hip:
            platform = f"ROCm {torch.version.hip}"
        return Build(str(torch.__version__), platform, tuple(torch.cuda.get_arch_list()))

    def driver(self) -> bool:
        """Whether the machine has an NVIDIA driver, whatever torch sees."""
        return _DRIVER.exists()

    def gpus(self) -> list[Gpu]:
        """Return the GPUs that torch sees."""
        import torch

        with warnings.catch_warnings():
            # Torch warns of a GPU that its build does not support and of an old driver; the check says it with its fix.
            warnings.simplefilter("ignore")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            return [Gpu(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in range(count)]

    def memory(self, gpu: int) -> tuple[int, int]:
        """Return free and total bytes of a GPU."""
        import torch

        free, total = torch.cuda.mem_get_info(gpu)
        return int(free), int(total)

    def convolve(self, device: str) -> list[float]:
        """Return output, weight gradient and input gradient of a small convolution, flattened.

        The input holds 0 to 24 in 5 x 5 pixels, the weights 0 to 8 in 3 x 3; the gradients are those of the sum.
        """
        import torch

        image = torch.arange(25.0, device=device).reshape(1, 1, 5, 5).requires_grad_()
        weight = torch.arange(9.0, device=device).reshape(1, 1, 3, 3).requires_grad_()
        output = torch.nn.functional.conv2d(image, weight)
        to_weight, to_image = torch.autograd.grad(output.sum(), (weight, image))
        return [value for part in (output, to_weight, to_image) for value in part.detach().cpu().flatten().tolist()]


def check_torch(visit: Visit) -> Check:
    """Torch imports, and a convolution and its gradients come out right on the CPU."""
    probe = visit.machine.torch or InstalledTorch()
    return Check.of("torch", [_convolution(probe, "cpu", f"torch {probe.build().version}")])


def check_gpu(visit: Visit) -> Check:
    """Torch sees a GPU, has code for it, computes on it, and one batch fits."""
    probe = visit.machine.torch or InstalledTorch()
    build, gpus = probe.build(), probe.gpus()
    if not gpus:
        return Check.of("gpu", [_no_gpu(build, probe.driver())])
    needed = gpu_bytes(visit.settings.batch_bytes)
    return Check.of("gpu", [_one_gpu(probe, build, i, gpu, needed) for i, gpu in enumerate(gpus)])


def gpu_bytes(batch_bytes: int) -> int:
    """Return the bytes of GPU memory that a training step with the example's network takes."""
    return _BATCHES * batch_bytes + _WORKSPACE


def runs_on(capability: tuple[int, int], targets: tuple[str, ...]) -> bool:
    """Whether code for these architectures runs on a GPU of this compute capability.

    Compiled code (``sm_XY``) runs on the same major version from its minor version on, architecture-specific code
    (``sm_90a``) on that version alone, intermediate code (``compute_XY``) on everything from its version on
    (CUDA C++ Programming Guide, section "Application Compatibility").
    """
    for match in filter(None, map(_TARGET.fullmatch, targets)):
        version, major = (int(match[2]), int(match[3])), int(match[2])
        if match[4]:
            fits = version == capability
        elif match[1] == "compute":
            fits = version <= capability
        else:
            fits = major == capability[0] and version <= capability
        if fits:
            return True
    return False


def _convolution(probe: InstalledTorch, device: str, what: str) -> Finding:
    result = probe.convolve(device)
    right = len(result) == len(EXPECTED) and all(
        math.isfinite(found) and abs(found - wanted) <= _TOLERANCE
        for found, wanted in zip(result, EXPECTED, strict=True)
    )
    if right:
        return Finding("pass", f"{what}: convolution and gradients are right")
    wrong = next((f"{f} for {w}" for f, w in zip(result, EXPECTED, strict=False) if not abs(f - w) <= _TOLERANCE), "")
    return Finding(
        "fail",
        f"{what}: a small convolution gives a wrong result ({wrong or f'{len(result)} values'})",
        "pip install --force-reinstall torch",
    )


def _no_gpu(build: Build, driver: bool) -> Finding:
    if not driver:
        return Finding("warn", f"torch {build.version} sees no GPU", "none is needed; training on the CPU is slower")
    if build.platform == "CPU only":
        return Finding(
            "warn",
            f"there is an NVIDIA driver, but torch {build.version} is a build without CUDA",
            "pip install --force-reinstall torch, without the CPU wheel index",
        )
    return Finding(
        "warn",
        f"there is an NVIDIA driver, but torch {build.version} ({build.platform}) sees no GPU",
        f"see that nvidia-smi lists it, that its driver is new enough for {build.platform}, and that "
        "CUDA_VISIBLE_DEVICES does not hide it",
    )


def _one_gpu(probe: InstalledTorch, build: Build, index: int, gpu: Gpu, needed: int) -> Finding:
    name = f"GPU {index} ({gpu.name}, sm_{gpu.capability[0]}{gpu.capability[1]})"
    # ROCm builds name their targets otherwise; there the convolution tells.
    if any(map(_TARGET.fullmatch, build.targets)) and not runs_on(gpu.capability, build.targets):
        return _unsupported(name, build, gpu)
    free, total = probe.memory(index)
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < needed:
        return Finding(
            "fail",
            f"{name}: {memory}, a training step with this batch takes about {needed / 1e9:.1f} GB",
            "give a smaller batch_size, size or fewer bands, or stop what else uses the GPU (nvidia-smi lists it)",
        )
    found = _convolution(probe, f"cuda:{index}", f"{name}, torch {build.version} for {build.platform}, {memory}")
    limits = limits_of(gpu.capability)
    return replace(found, detail=f"{found.detail}; {limits}") if found.status == "pass" and limits else found


def _unsupported(name: str, build: Build, gpu: Gpu) -> Finding:
    detail = f"{name}: torch {build.version} has no code for it, only for {' '.join(build.targets)}"
    versions = [(int(m[2]), int(m[3])) for m in map(_TARGET.fullmatch, build.targets) if m]
    too_new = gpu.capability > max(versions)
    return Finding("fail", detail, "pip install --upgrade torch" if too_new else _OLD_GPU)
