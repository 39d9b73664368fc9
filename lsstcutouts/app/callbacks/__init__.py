"""Lightning callbacks: speed of a training and its cache, checkpoints, predictions as a file, pictures of mistakes."""

from .keep import KeepLast, KeepOnException
from .monitor import CacheMonitor
from .predictions import PredictionWriter
from .training_speed import Throughput
from .worst import WorstPredictions

__all__ = ["CacheMonitor", "KeepLast", "KeepOnException", "PredictionWriter", "Throughput", "WorstPredictions"]
