"""Augmentations, normalisations and adapters to foundation models for whole batches, as `torch.nn.Module` objects on any device.

Each takes the batch dictionary and returns a new one. All planes of a target change together.
"""

from .adapter import Adapter
from .aion import ToAion
from .astropt import ToAstroPT
from .augmentation import Augmentation
from .compose import Compose
from .d4 import RandomD4
from .dropout import BandDropout
from .hashing import random_integers, random_keys, random_normal, random_uniform
from .noise import AddNoise
from .normalise import Lupton, NoiseAsinh, Normalise, ZScore
from .overwriting import Overwriting
from .rotation import RandomRotation
from .shift import RandomShift
from .stretch import AsinhStretch
from .zoobot import ToZoobot

__all__ = [
    "Adapter",
    "AddNoise",
    "AsinhStretch",
    "Augmentation",
    "BandDropout",
    "Compose",
    "Lupton",
    "NoiseAsinh",
    "Normalise",
    "Overwriting",
    "RandomD4",
    "RandomRotation",
    "RandomShift",
    "ToAion",
    "ToAstroPT",
    "ToZoobot",
    "ZScore",
    "random_integers",
    "random_keys",
    "random_normal",
    "random_uniform",
]
