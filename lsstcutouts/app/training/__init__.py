"""The functions behind ``lsstcutouts train``, ``lsstcutouts predict`` and ``train_example.py``."""

from .prediction import PredictionResult, predict
from .prepare import ensure_simulation
from .training import train
from .training_result import TrainingResult

__all__ = ["PredictionResult", "TrainingResult", "ensure_simulation", "predict", "train"]
