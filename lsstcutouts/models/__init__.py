"""A small convolutional network for cutouts of any number of bands, and the tasks that train a network."""

from .labels import Labels
from .networks import LensFinder
from .tasks import Classifier, LensClassifier, Regressor, Supervised

__all__ = ["Classifier", "Labels", "LensClassifier", "LensFinder", "Regressor", "Supervised"]
