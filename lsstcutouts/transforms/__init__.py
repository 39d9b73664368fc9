"""Modules over a whole batch, run on the device that holds it.

Each takes and returns the batch dictionary; planes that must change together do.
"""

from .compose import Compose
from .d4 import RandomD4
from .hashing import random_integers
from .normalise import Lupton, NoiseAsinh, Normalise, ZScore
from .overwriting import Overwriting
from .stretch import AsinhStretch

__all__ = [
    "AsinhStretch",
    "Compose",
    "Lupton",
    "NoiseAsinh",
    "Normalise",
    "Overwriting",
    "RandomD4",
    "ZScore",
    "random_integers",
]
