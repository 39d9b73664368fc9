"""The functions behind ``lsstcutouts train``, ``lsstcutouts predict`` and ``train_example.py``."""

from .outcome import TrainingResult
from .prediction import PredictionResult, predict
from .prepare import ensure_simulation
from .training import train

__all__ = ["PredictionResult", "TrainingResult", "ensure_simulation", "predict", "train"]
