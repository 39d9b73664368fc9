"""The data module itself."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from torch import nn

from ...errors import ConfigurationError
from ...order.schedule import Schedule
from ...order.shuffling import DEFAULT_SHUFFLE_WIDTH, Shuffle, check_order, shuffle_kind
from ...plan.arguments import SizeLike, parse_bands, parse_size, parse_tract
from ...plan.cutout_plan import CutoutPlan
from ...read.cache.tile_cache import TileCache
from ...read.options import ReadOptions
from ...read.quality import QualityPolicy
from ...splits.split_options import DEFAULT_HEALPIX_ORDER, Leaks, SplitBy, Splits, SplitSettings
from ...transforms.fit import DEFAULT_SAMPLE
from ...transforms.statistics import Statistics
from ..capability import check_wire
from ..checkpoint_state import data_state, read_checkpoint
from ..device.wire import Wire
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
        Path, URL or label of a Butler repository; this and the next six as in `LsstDataFetcher`.
    collections
        Collection, or a list that is searched in order.
    bands
        One-letter bands or a list of names; the order of the channels.
    size
        Pixels, an angle such as ``"12 arcsec"``, or ``(height, width)`` of either.
    dataset_type
        What to cut from.
    skymap
        By default that of the coadds.
    tract
        Where tracts overlap: ``"primary"``, the target's own tract or, where it covers nothing of the box, the best other
        one; ``"strict"``, its own only; ``"best"``, the one whose files cover most of the box.
    planes
        What a batch holds; this and the policies behind it as in `CutoutDataset`.
    mask_planes
        Names of the bits of ``mask``.
    missing_band
        What becomes of a band that no file covers.
    min_bands
        A target with fewer bands is left out and listed.
    required_bands
        A target without one of these is left out and listed.
    fill
        What stands where there is no value: a number, or noise of the pixel's variance.
    quality
        Checks of the pixels; None for none.
    on_read_error
        What a file that cannot be read does: raise, mask its pixels, or leave the target out.
    normalise_psf
        Whether each PSF kernel is divided by its sum.
    flux_unit
        Of the pixels: nJy, or the file's own.
    catalog
        A path, a table or a `Catalog`; or a mapping of split names (``train``, ``val``, ``test``, ``predict``) to these.
    batch_size
        Targets a batch and process.
    num_workers
        0 reads with threads inside this process, which is the fastest.
    seed
        Of the order, the splits and the noise of ``fill``.
    shuffle
        Order of the training split, as in `CutoutDataset`: true or ``"block"``, ``"full"``, or false; the other splits go
        block by block over the sky.
    shuffle_width
        Blocks of sky open at once; the larger, the closer to a full permutation and the more memory it takes.
    weights
        Catalog column: how often training draws a target, relative to the others.
    balance
        Catalog column of classes, each of which training draws equally often in total.
    epoch_size
        Targets that a training epoch draws; by default as many as there are.
    replacement
        Whether the draws are independent of each other, rather than each target its expected number of times, rounded
        down or up.
    splits
        Share of the targets in each split; or the name of a catalog column that holds ``train``, ``val`` or ``test``; or
        split names mapped to object ids, or to files of them. Not used with one catalog a split. ``predict`` is every
        target.
    split_by
        What fractions never divide: ``"patch"``, ``"tract"``, ``"block"`` (of sky within a patch) or ``"healpix"``;
        ``"auto"`` takes patches, and blocks where there are fewer than four patches.
    healpix_order
        Of the cells of ``split_by="healpix"``.
    leaks
        What becomes of targets whose boxes share pixels with those of another split: ``"drop"`` leaves them out of training
        or validation (`dealt` lists them), ``"raise"`` is an error, ``"warn"`` says so. By default, fractions drop, and
        splits of one's own warn.
    select
        Expression on catalog columns, such as ``"mag_i < 23 and label >= 0"``, that the targets of train, val and test must
        meet; or one for each split by name, ``predict`` too. A missing value meets none.
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
    statistics
        Statistics of the pixels, or a file of them (``lsstcutouts normalise``), instead of fitting.
    normalisation_sample
        Targets of the training split to fit them on.
    transforms
        Module over a batch, run on the device for every split. Lightning's trainer does that; a plain loop calls
        ``data.transform(batch)`` itself.
    augmentations
        Module over a batch, run on the device in training only, before all others: on pixels in the unit of the files.
    compile
        Whether these three run compiled, as one; they see tensors only then. On a
        GPU older than compute capability 7.0 they run as they are, and a warning says so.
    wire
        Type in which pixels travel to the device, as in `CutoutLoader`.
    channels_last
        Whether ``image`` has the memory layout ``(N, Y, X, B)`` on the device.
    plan
        A plan or a file of one, to be used instead of making it. After ``setup`` the attribute ``plan`` holds the
        plan in use (with one catalog a split, ``splits`` holds each).
    persistent_workers
        Whether worker processes outlive an epoch, with their caches.
    prefetch_factor
        Batches ahead for each worker process.
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
        skymap: str | None = None,
        planes: Sequence[str] = ("image",),
        mask_planes: Sequence[str] = (),
        missing_band: Literal["zero", "nan", "skip", "raise"] = "zero",
        min_bands: int = 0,
        required_bands: Sequence[str] = (),
        fill: float | Literal["noise"] = 0.0,
        quality: QualityPolicy | None = None,
        on_read_error: Literal["raise", "mask", "skip"] = "raise",
        normalise_psf: bool = False,
        flux_unit: Literal["nJy", "native"] = "nJy",
        tract: Literal["primary", "strict", "best"] = "primary",
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        shuffle: Shuffle = True,
        shuffle_width: int = DEFAULT_SHUFFLE_WIDTH,
        weights: str | None = None,
        balance: str | None = None,
        epoch_size: int | None = None,
        replacement: bool = False,
        splits: Splits | None = None,
        split_by: SplitBy = "auto",
        healpix_order: int = DEFAULT_HEALPIX_ORDER,
        leaks: Leaks | None = None,
        select: str | Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
        threads: int | None = None,
        cache_bytes: float | str = "auto",
        normalisation: nn.Module | None = None,
        statistics: str | os.PathLike[str] | Statistics | None = None,
        normalisation_sample: int = DEFAULT_SAMPLE,
        transforms: nn.Module | None = None,
        augmentations: nn.Module | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word
        wire: Wire = "float32",
        channels_last: bool = False,
        plan: str | os.PathLike[str] | CutoutPlan | None = None,
        persistent_workers: bool = True,
        prefetch_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.repo, self.collections, self.catalog = repo, collections, catalog
        self.bands, self.size = parse_bands(bands), parse_size(size)
        self.dataset_type, self.skymap, self.tract = dataset_type, skymap, parse_tract(tract)
        self.options = ReadOptions(
            planes=planes,  # type: ignore[arg-type]
            mask_planes=mask_planes,  # type: ignore[arg-type]
            missing_band=missing_band,
            min_bands=min_bands,
            required_bands=required_bands,  # type: ignore[arg-type]
            fill=fill,
            quality=quality,
            on_read_error=on_read_error,
            normalise_psf=normalise_psf,
            flux_unit=flux_unit,
            seed=seed,
        )
        self.options.check_bands(self.bands)
        counts = {"batch_size": batch_size, "num_workers": num_workers, "seed": seed, "shuffle_width": shuffle_width}
        optional = {"threads": threads, "epoch_size": epoch_size, "prefetch_factor": prefetch_factor}
        for name, value in (counts | {key: one for key, one in optional.items() if one is not None}).items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ConfigurationError(f"{name} must be a whole number, got {value!r}")
        check_order(seed=seed, shuffle_width=shuffle_width)
        shuffle_kind(shuffle)
        Schedule(0, batch_size)
        if epoch_size is not None and epoch_size < 1:
            raise ConfigurationError(f"epoch_size must be at least 1, got {epoch_size}")
        if num_workers < 0 or (threads is not None and threads < 1):
            raise ConfigurationError(f"num_workers={num_workers} and threads={threads} cannot be")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.shuffle, self.shuffle_width = seed, shuffle, shuffle_width
        self.weights, self.balance, self.epoch_size, self.replacement = weights, balance, epoch_size, replacement
        self.split_settings = SplitSettings.of(
            splits, split_by=split_by, healpix_order=healpix_order, leaks=leaks, select=select, seed=seed
        )
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        self.threads, self.cache = threads, TileCache(cache_bytes)
        self.normalisation = checked_module("normalisation", normalisation)
        self._of_pixels = Fitting(statistics, sample=normalisation_sample)
        self.transforms = checked_module("transforms", transforms)
        self.augmentations = checked_module("augmentations", augmentations)
        self._steps = DeviceSteps(compile=compile)
        check_wire(wire)
        self.wire, self.channels_last = wire, channels_last
        self.plan = plan
        self.persistent_workers, self.prefetch_factor = persistent_workers, prefetch_factor

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
