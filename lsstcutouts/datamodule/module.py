"""The data module itself."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import nn

from ..cache import CacheStats, TileCache
from ..capability import check_wire
from ..cutout import QualityPolicy, ReadOptions
from ..dataset import CutoutDataset, CutoutLoader
from ..device import TensorBatch, Wire
from ..errors import ConfigurationError
from ..order import (
    DEFAULT_SHUFFLE_WIDTH,
    Schedule,
    Share,
    Shuffle,
    check_order,
    checked_weights,
    shuffle_kind,
)
from ..plan import CutoutPlan
from ..planner import SizeLike, parse_bands, parse_size, parse_tract
from ..report import Report
from ..splits import DEFAULT_HEALPIX_ORDER, SPLITS, Dealt, Leaks, SplitBy, Splits, SplitSettings, deal, deal_plans
from .hints import quieten_lightning
from .plans import PlanSettings
from .steps import DeviceSteps

__all__ = ["CutoutDataModule"]


class CutoutDataModule(L.LightningDataModule):
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
        Where tracts overlap: the target's own, or the one whose files cover most of the box.
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
        Module over a batch, run on the device before ``transforms``, for every split.
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
        Whether worker processes outlive an epoch.
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
        tract: Literal["primary", "best"] = "primary",
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
        transforms: nn.Module | None = None,
        augmentations: nn.Module | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word
        wire: Wire = "float32",
        channels_last: bool = False,
        plan: str | os.PathLike[str] | CutoutPlan | None = None,
        persistent_workers: bool = False,
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
        self.normalisation = normalisation or nn.Identity()
        self.transforms = transforms or nn.Identity()
        self.augmentations = augmentations or nn.Identity()
        self._steps = DeviceSteps(compile=compile)
        check_wire(wire)
        self.wire, self.channels_last = wire, channels_last
        self.plan = plan
        self.persistent_workers, self.prefetch_factor = persistent_workers, prefetch_factor
        self.dealt: Dealt | None = None
        """Which targets belong to which split, and which were left out; known after `setup`."""
        self.loaders: dict[str, CutoutLoader] = {}
        """Latest loader of each split that was asked for."""
        self._past = CacheStats()  # of worker processes of earlier loaders
        self._train_loader: CutoutLoader | None = None
        self._owner: L.Trainer | None = None  # of the loader
        self._position: dict[str, int] | None = None

    @property
    def splits(self) -> dict[str, tuple[CutoutPlan, NDArray[np.int64]]]:
        """Plan and targets of each split; empty before `setup`."""
        return {} if self.dealt is None else self.dealt.splits

    def state_dict(self) -> dict[str, Any]:
        """Return the place of training, for the checkpoint: ``epoch`` and the batches of it that are ``done``."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on where the checkpoint was taken."""
        # Lightning restores a data module in every stage; only training goes on from there.
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            self._position = state_dict.get("train")
            self._seek()

    def _seek(self) -> None:
        if self._position is not None and self._train_loader is not None:
            self._train_loader.load_state_dict(self._position)
            self._position = None

    def _adjusted(self, epoch: int, done: int) -> tuple[int, int]:
        """Return the place that training has come to, from the place that its loader has come to."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return epoch, done
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        # A batch that was fetched when an exception came was not trained on.
        done = max(0, done - max(0, progress.ready - getattr(progress, "processed", progress.ready)))
        # With limit_train_batches an epoch is over before the loader's.
        limit = trainer.num_training_batches
        whole = self._train_loader is None or limit >= len(self._train_loader)
        return (epoch, done) if whole or done < limit else (epoch + 1, 0)

    def prepare_data(self) -> None:
        """Make the plans and write them for `setup`, once a node."""
        if self.splits:
            return
        for name, catalog in self._catalogs().items():
            self.plan_settings.made(catalog).save(self._plan_file(name))

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - every split comes from one plan
        """Load or make the plan and deal its targets to the splits."""
        if self.splits:
            return
        quieten_lightning()
        plans = {name: self._planned(name, catalog) for name, catalog in self._catalogs().items()}
        if self.plan is not None:
            given = self.plan if isinstance(self.plan, CutoutPlan) else CutoutPlan.load(self.plan)
            plans[""] = self.plan_settings.fitting(given)
        if "" in plans:
            self.plan = plans[""]
        self.dealt = deal(plans[""], self.split_settings) if "" in plans else deal_plans(plans, self.split_settings)

    def train_dataloader(self) -> CutoutLoader:
        """Return the loader of the training split; each pass is the next epoch.

        A loader that is made anew for the same trainer, or for none, goes on after the one before.
        """
        # Lightning can switch off the shuffling of samplers alone, and means these batches to stay the same.
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        loader = self._loader("train", shuffle=self.shuffle and not overfit, **self._drawing())
        if self._train_loader is not None and self._owner is self.trainer:
            loader.follow(self._train_loader)
        loader.adjusted = self._adjusted
        self._train_loader, self._owner = loader, self.trainer
        self._seek()
        return loader

    def val_dataloader(self) -> CutoutLoader | list[CutoutLoader]:
        """Return the loader of the validation split, or none where the split is empty."""
        return self._loader("val", shuffle=False) if self._has("val") else []

    def test_dataloader(self) -> CutoutLoader:
        """Return the loader of the test split."""
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> CutoutLoader:
        """Return the loader of the prediction split."""
        return self._loader("predict", shuffle=False)

    def transform(self, batch: TensorBatch, *, training: bool = False) -> TensorBatch:
        """Return a batch as a model takes it: ``normalisation`` and ``transforms`` where the batch is.

        Parameters
        ----------
        batch
            As a loader gives it.
        training
            Whether ``augmentations`` run first, on pixels in the unit of the files.
        """
        if not training:
            return self._steps.run(batch, [self.normalisation, self.transforms])
        for module in self.augmentations.modules():
            set_epoch = getattr(module, "set_epoch", None)
            if callable(set_epoch) and self._train_loader is not None:
                set_epoch(self._train_loader.epoch)
        return self._steps.run(batch, [self.augmentations, self.normalisation, self.transforms])

    def on_after_batch_transfer(self, batch: TensorBatch, dataloader_idx: int) -> TensorBatch:  # noqa: ARG002
        """Run `transform` on the device; with the augmentations while training."""
        return self.transform(batch, training=self.trainer is not None and bool(self.trainer.training))

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        return 0.0 if self._train_loader is None else self._train_loader.waited

    def report(self, split: str = "train") -> Report:
        """Return what became of each row of a split in its latest epoch, so far, in this process.

        Catalog rows that no split can hold are in the plan's ``rejected``.

        Raises
        ------
        ConfigurationError
            If the split has not been read.
        """
        if split not in self.loaders:
            raise ConfigurationError(f"the {split!r} split has not been read, so there is no report of it")
        return self.loaders[split].report

    def cache_info(self) -> CacheStats:
        """Return what the caches of this process and of all worker processes have done and hold, together."""
        own = self.cache.stats()
        workers = sum((loader.workers.total() for loader in self.loaders.values()), self._past)
        # Where worker processes read, this process's cache has a budget that it does not use.
        return workers + (own if own.hits + own.misses or not self.num_workers else CacheStats())

    def _drawing(self) -> dict[str, Any]:
        """Return what an epoch of training draws."""
        plan, rows = self._split("train")
        weights, balance = (
            None if name is None else np.asarray(plan.columns[name])[rows] for name in (self.weights, self.balance)
        )
        if weights is not None:
            weights = checked_weights(weights, f"the weights in column {self.weights!r}")
        return {
            "weights": weights,
            "balance": balance,
            "epoch_size": self.epoch_size,
            "replacement": self.replacement,
        }

    def _split(self, split: str) -> tuple[CutoutPlan, NDArray[np.int64]]:
        if not self._has(split):
            raise ConfigurationError(
                f"the {split!r} split holds no target; there is {self.split_settings}, and setup() must come first"
            )
        return self.splits[split]

    def _loader(self, split: str, *, shuffle: Shuffle, **drawing: Any) -> CutoutLoader:
        plan, rows = self._split(split)
        if self.trainer is not None:
            self.cache.share_among(1, ranks=self.trainer.num_devices)
        if split in self.loaders:
            self._past += self.loaders[split].workers.total().past
        dataset = CutoutDataset(
            plan,
            rows=rows,
            batch_size=self.batch_size,
            **self.options.arguments("seed", "columns"),
            columns=self.columns,
            shuffle=shuffle,
            shuffle_width=self.shuffle_width,
            seed=self.seed,
            threads=self.threads,
            cache=self.cache,
            sharing=2 if split in {"train", "val"} and self._has("train") and self._has("val") else 1,
            share=self._share(),
            pads=split != "train",
            **drawing,
        )
        self.loaders[split] = CutoutLoader(
            dataset,
            num_workers=self.num_workers,
            device=self._device(),
            wire=self.wire,
            channels_last=self.channels_last,
            pin_memory=None if self.trainer is None else self._device() is not None,
            persistent_workers=self.persistent_workers and self.num_workers > 0,
            prefetch_factor=self.prefetch_factor if self.num_workers > 0 else None,
        )
        return self.loaders[split]

    def _has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split][1]) > 0

    def _device(self) -> torch.device | None:
        """Return the trainer's GPU: batches that are there already, Lightning does not copy."""
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return device if device is not None and device.type == "cuda" else None

    def _share(self) -> Share:
        if self.trainer is None:
            return Share(0, 1)
        return Share(self.trainer.global_rank, self.trainer.world_size)

    @property
    def plan_settings(self) -> PlanSettings:
        """What decides the plans, besides the catalogs."""
        drawn = [column for column in (self.weights, self.balance) if column is not None]
        return PlanSettings(
            self.repo,
            self.collections,
            self.bands,
            self.size,
            self.dataset_type,
            self.skymap,
            self.tract,
            tuple(dict.fromkeys([*self.columns, *drawn, *self.split_settings.columns])),
        )

    def _catalogs(self) -> dict[str, Any]:
        """Return what must be planned: a catalog a split, or one for all under the empty name."""
        if self.plan is not None:
            return {}
        if isinstance(self.catalog, Mapping) and set(self.catalog) <= set(SPLITS):
            return dict(self.catalog)
        return {"": self.catalog}

    def _planned(self, name: str, catalog: Any) -> CutoutPlan:
        if self.trainer is None:
            return self.plan_settings.made(catalog)
        return CutoutPlan.load(self._plan_file(name))

    def _plan_file(self, name: str) -> Path:
        catalog = self.catalog[name] if name else self.catalog
        root = self.trainer.default_root_dir if self.trainer is not None else "."
        return self.plan_settings.path(catalog, name, root)
