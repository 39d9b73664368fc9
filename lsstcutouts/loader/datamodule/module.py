"""The data module itself."""

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from torch import nn

from ...errors import ConfigurationError
from ...order.sampling import Sampling
from ...plan.arguments import SizeLike, parse_bands, parse_size
from ...plan.cutout_plan import CutoutPlan
from ...plan.read_options import ReadOptions
from ...read.cache.tile_cache import TileCache
from ...read.options import ReaderOptions
from ...splits.split_options import SplitOptions, Splits
from ..checkpoint_state import data_state, read_checkpoint
from ..transfer_options import TransferOptions
from .description import arguments_of, checked_module, made_again
from .fitting import Fitting
from .steps import DeviceSteps
from .streaming import StreamingDataModule

__all__ = ["CutoutDataModule"]


class CutoutDataModule(StreamingDataModule):
    """Stream cutouts from a Butler repository into a Lightning training.

    The constructor reads nothing. ``prepare_data`` makes the plan once a node and writes it where ``setup`` of
    every process finds it; ``setup`` called alone makes it itself.

    Parameters
    ----------
    repo
        Path, URL or label of a Butler repository.
    collections
        Collection, or a list that is searched in order.
    bands
        One-letter bands or a list of names; the order of the channels.
    size
        Pixels, an angle such as ``"12 arcsec"``, or ``(height, width)`` of either.
    dataset_type
        What to cut from.
    planes
        What a batch holds, as in `CutoutDataset`.
    read
        How pixels are read, and the policies: `ReadOptions`.
    catalog
        A path, a table or a `Catalog`; or a mapping of split names (``train``, ``val``, ``test``, ``predict``) to these.
    batch_size
        Targets a batch and process.
    num_workers
        0 reads with threads inside this process, which is the fastest.
    seed
        Of the order, the splits and the noise of ``fill``.
    sampling
        Which targets an epoch of training draws, and its order: `Sampling`, whose ``weights`` and ``balance`` name catalog
        columns. The other splits go block by block over the sky.
    splits
        Which targets belong to which split: `SplitOptions`, or plain shares such as ``{"train": 0.8, "val": 0.2}``. With one
        catalog for each split only ``leaks`` and ``select`` are used.
    columns
        Catalog columns that travel with the samples.
    threads
        Decoding threads; by default the cores that this process may use.
    cache_bytes
        As in `LsstDataFetcher`; one cache serves every loader of this process. Worker processes share its budget, those of
        training and validation together.
    normalisation
        Module over a batch, run on the device before ``transforms``, for every split. What of it is a
        `~lsstcutouts.transforms.Normalise` is fitted to the training split, once, and from a checkpoint on resume.
    transforms
        Module over a batch, run on the device for every split. Lightning's trainer does that; a plain loop calls
        ``data.transform(batch)`` itself.
    augmentations
        Module over a batch, run on the device in training only, before all others: on pixels in the unit of the files.
    transfer
        How batches travel to the device, and whether these three modules run compiled: `TransferOptions`.
    plan
        A plan or a file of one, to be used instead of making it. After ``setup`` the attribute ``plan`` holds the
        plan in use (with one catalog a split, ``splits`` holds each).
    """

    def __init__(
        self,
        repo: str,
        collections: str | Sequence[str],
        catalog: Any,
        bands: str | Sequence[str],
        size: SizeLike,
        *,
        dataset_type: str = "deep_coadd",
        plan: str | os.PathLike[str] | CutoutPlan | None = None,
        planes: Sequence[str] = ("image",),
        columns: Sequence[str] = (),
        batch_size: int = 128,
        num_workers: int = 0,
        threads: int | None = None,
        cache_bytes: float | str = "auto",
        seed: int = 0,
        read: ReadOptions = ReadOptions(),
        sampling: Sampling = Sampling(),
        splits: SplitOptions | Splits | None = None,
        transfer: TransferOptions = TransferOptions(),
        normalisation: nn.Module | None = None,
        transforms: nn.Module | None = None,
        augmentations: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.repo, self.collections, self.catalog = repo, collections, catalog
        self.bands, self.size = parse_bands(bands), parse_size(size)
        self.dataset_type, self.read = dataset_type, read
        checked = ReaderOptions.of(read, planes=planes, seed=seed)
        checked.check_bands(self.bands)
        self.planes = tuple(checked.planes)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("threads", 1)):
            value = {"batch_size": batch_size, "num_workers": num_workers, "threads": threads}[name]
            if name == "threads" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ConfigurationError(f"{name} must be a whole number, got {value!r}")
            if value < least:
                raise ConfigurationError(f"{name} must be at least {least}, got {value}")
        for name, given, kind in (("sampling", sampling, Sampling), ("transfer", transfer, TransferOptions)):
            if not isinstance(given, kind):
                raise ConfigurationError(f"{name} must be {kind.__name__}(...), got {given!r}")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.sampling, self.transfer = seed, sampling, transfer
        self.split_options = SplitOptions.of(splits)
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        self.threads, self.cache = threads, TileCache(cache_bytes)
        self.normalisation = checked_module("normalisation", normalisation)
        self._of_pixels = Fitting(self.normalisation)
        self.transforms = checked_module("transforms", transforms)
        self.augmentations = checked_module("augmentations", augmentations)
        self._steps = DeviceSteps(compile=transfer.compile)
        self.plan = plan

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | os.PathLike[str], **changes: Any) -> Self:  # type: ignore[override]
        """Return the data module of a checkpoint's training, with its statistics.

        Parameters
        ----------
        checkpoint_path
            Written by a training with a data module of this class.
        changes
            Arguments that are to be others, such as ``catalog``, ``repo``, ``batch_size`` and ``columns``.

        Raises
        ------
        ConfigurationError
            If the file says nothing of a data module; if a change makes other tensors than those that the network was
            trained on; if the catalog was only in memory and is not given, or a module cannot be made again.
        """
        state = data_state(read_checkpoint(checkpoint_path, "checkpoint_path"))
        if state is None:
            raise ConfigurationError(
                f"{os.fspath(checkpoint_path)!r} does not say what data it was trained on: it was written by an older version "
                "or with other data; make the data module as in the training"
            )
        settings = arguments_of(state["data"])
        for name in ("normalisation", "transforms", "augmentations"):
            if name not in changes:
                settings[name] = made_again(name, settings[name])
        if settings["catalog"] is None and "catalog" not in changes:
            raise ConfigurationError("the training's catalog was a table in memory; give catalog=")
        data = cls(**{**settings, **changes})
        data.take_over(state)
        return data
