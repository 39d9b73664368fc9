"""What the doctor asks of torch: its build, its GPUs, and a small convolution."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Build", "Gpu", "InstalledTorch", "TorchProbe"]

_DRIVER = Path("/proc/driver/nvidia/version")


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


class TorchProbe(Protocol):
    """Answers for torch. Any method may raise what a broken torch raises."""

    def build(self) -> Build:
        """Return how torch was built."""

    def driver(self) -> bool:
        """Whether the machine has an NVIDIA driver, whatever torch sees."""

    def gpus(self) -> list[Gpu]:
        """Return the GPUs that torch sees."""

    def memory(self, gpu: int) -> tuple[int, int]:
        """Return free and total bytes of a GPU."""

    def convolve(self, device: str) -> list[float]:
        """Return output, weight gradient and input gradient of a small convolution, flattened.

        The input holds 0 to 24 in 5 x 5 pixels, the weights 0 to 8 in 3 x 3; the gradients are those of the sum.
        """


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
        """Return output, weight gradient and input gradient of a small convolution, flattened."""
        import torch

        image = torch.arange(25.0, device=device).reshape(1, 1, 5, 5).requires_grad_()
        weight = torch.arange(9.0, device=device).reshape(1, 1, 3, 3).requires_grad_()
        output = torch.nn.functional.conv2d(image, weight)
        to_weight, to_image = torch.autograd.grad(output.sum(), (weight, image))
        return [value for part in (output, to_weight, to_image) for value in part.detach().cpu().flatten().tolist()]
