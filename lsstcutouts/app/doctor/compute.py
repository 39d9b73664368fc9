"""Checks of torch: it computes correctly, and it can use the GPUs."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import torch

from ...loader.capability import limits_of
from .diagnosis import Result, Settings

__all__ = ["EXPECTED", "check_gpu", "check_torch", "convolve", "gpu_bytes", "runs_on"]

EXPECTED = (
    *(312, 348, 384, 492, 528, 564, 672, 708, 744),  # output
    *(54, 63, 72, 99, 108, 117, 144, 153, 162),  # gradient of the weights
    *(0, 1, 3, 3, 2, 3, 8, 15, 12, 7, 9, 21, 36, 27, 15, 9, 20, 33, 24, 13, 6, 13, 21, 15, 8),  # gradient of the image
)
"""Values of `convolve`, computed by hand in integers."""

_TOLERANCE = 1e-2  # far below 1, the difference of a wrong sum, and above the rounding of fast algorithms
_BATCHES = 12  # memory of a training step, in batches: docs/small-gpus.md lists them
_WORKSPACE = 200_000_000  # bytes, for cuDNN and cuBLAS
_TARGET = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_DRIVER = Path("/proc/driver/nvidia/version")
_OLD_GPU = (
    "pip install 'torch<2.8' (the default wheels lost Maxwell and Pascal GPUs at 2.8), or a newer torch from PyTorch's "
    "own wheel index for CUDA 12.6 (cu126)"
)


def check_torch(_settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check that a convolution and its gradients are correct on the CPU."""
    yield _convolution("cpu", f"torch {torch.__version__}")


def check_gpu(settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check that torch sees a GPU, has code for it and computes correctly on it, and that a training step fits."""
    with warnings.catch_warnings():
        # torch warns of an unsupported GPU or an old driver; the result says it with its advice.
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in range(count)]
        targets = torch.cuda.get_arch_list()
    version, needed = f"torch {torch.__version__}", gpu_bytes(settings.batch_bytes)
    cuda, rocm = torch.version.cuda, torch.version.hip
    platform = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU only"
    if not gpus:
        yield _no_gpu(version, platform)
    # ROCm builds name their targets otherwise; there the convolution shows it.
    known = [(int(m[2]), int(m[3])) for m in map(_TARGET.fullmatch, targets) if m]
    for index, (name, capability) in enumerate(gpus):
        gpu = f"GPU {index} ({name}, sm_{capability[0]}{capability[1]})"
        if known and not runs_on(capability, targets):
            todo = "pip install --upgrade torch" if capability > max(known) else _OLD_GPU
            yield Result("fail", f"{gpu}: {version} has no code for it, only for {' '.join(targets)}", todo)
            continue
        free, total = torch.cuda.mem_get_info(index)
        memory, limits = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", limits_of(capability)
        if free < needed:
            detail = f"{gpu}: {memory}, a training step with this batch takes about {needed / 1e9:.1f} GB"
            todo = (
                "give a smaller batch_size, size or fewer bands, or stop what else uses the GPU (nvidia-smi lists it)"
            )
            yield Result("fail", detail, todo)
        else:
            yield _convolution(f"cuda:{index}", f"{gpu}, {version} for {platform}, {memory}", limits and f"; {limits}")


def _no_gpu(version: str, platform: str) -> Result:
    if not _DRIVER.exists():
        return Result("warn", f"{version} sees no GPU", "none is needed; training on the CPU is slower")
    if platform == "CPU only":
        todo = "pip install --force-reinstall torch, without the CPU wheel index"
        return Result("warn", f"there is an NVIDIA driver, but {version} is a build without CUDA", todo)
    todo = f"see that nvidia-smi lists it, that its driver is new enough for {platform}, and that "
    todo += "CUDA_VISIBLE_DEVICES does not hide it"
    return Result("warn", f"there is an NVIDIA driver, but {version} ({platform}) sees no GPU", todo)


def _convolution(device: str, what: str, limits: str = "") -> Result:
    pairs = zip_longest(convolve(device), EXPECTED, fillvalue=float("nan"))
    wrong = [f"{value} for {expected}" for value, expected in pairs if not abs(value - expected) <= _TOLERANCE]
    if not wrong:
        return Result("pass", f"{what}: convolution and gradients are right{limits}")
    detail = f"{what}: a small convolution gives a wrong result ({wrong[0]}; {len(wrong)} of {len(EXPECTED)} values)"
    return Result("fail", detail, "pip install --force-reinstall torch")


def convolve(device: str) -> list[float]:
    """Return output, weight gradient and image gradient of a small convolution, flattened.

    The image holds 0 to 24 in 5 x 5 pixels, the weights 0 to 8 in 3 x 3; the gradients are those of the sum.
    """
    image = torch.arange(25.0, device=device).reshape(1, 1, 5, 5).requires_grad_()
    weight = torch.arange(9.0, device=device).reshape(1, 1, 3, 3).requires_grad_()
    output = torch.nn.functional.conv2d(image, weight)
    parts = (output, *torch.autograd.grad(output.sum(), (weight, image)))
    return [float(value) for part in parts for value in part.flatten().tolist()]


def gpu_bytes(batch_bytes: int) -> int:
    """Return the bytes of GPU memory that a training step with the example's network takes."""
    return _BATCHES * batch_bytes + _WORKSPACE


def runs_on(capability: tuple[int, int], targets: Sequence[str]) -> bool:
    """Return whether code for these architectures runs on a GPU of this compute capability.

    Compiled code (``sm_XY``) runs on the same major version from its minor version on, architecture-specific code
    (``sm_90a``) on that version alone, intermediate code (``compute_XY``) on everything from its version on
    (CUDA C++ Programming Guide, section "Application Compatibility").
    """
    for match in filter(None, map(_TARGET.fullmatch, targets)):
        version = (int(match[2]), int(match[3]))
        later = version <= capability and (match[1] == "compute" or version[0] == capability[0])
        if version == capability or (later and not match[4]):
            return True
    return False
