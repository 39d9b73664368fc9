"""The functions behind ``lsstcutouts train`` and ``train_example.py``."""

from .fit import train
from .prepare import ensure_simulation
from .result import TrainingResult

__all__ = ["TrainingResult", "ensure_simulation", "train"]
