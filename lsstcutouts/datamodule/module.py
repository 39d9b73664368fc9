"""The data module itself."""

import hashlib
import json
import logging
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
from ..planner import SizeLike, build_plan, parse_bands, parse_size, parse_tract
from ..report import Report
from ..splits import SPLITS, checked_fractions, dealt
from .hints import quieten_lightning
from .plans import catalog_key, fitting
from .steps import DeviceSteps

__all__ = ["CutoutDataModule"]

_log = logging.getLogger(__name__)


class CutoutDataModule(L.LightningDataModule):
    """Stream cutouts from a Butler repository into a Lightning training.

    The constructor reads nothing. ``prepare_data`` makes the plan once a node and writes it where ``setup`` of
    every process finds it; ``setup`` called alone makes it itself.

    Parameters
    ----------
    repo, collections, bands, size, dataset_type, skymap, tract
        Where the cutouts come from, as in `LsstDataFetcher`.
    planes, mask_planes, missing_band, min_bands, required_bands, fill, quality, on_read_error, normalise_psf, flux_unit
        What a batch holds, and the policies, as in `CutoutDataset`.
    catalog
        A path, a table or a `Catalog`; or a mapping of split names (``train``, ``val``, ``test``, ``predict``) to these.
    batch_size
        Targets a batch and process.
    num_workers
        0 reads with threads inside this process, which is the fastest.
    seed, shuffle, shuffle_width
        Order of the training split, as in `CutoutDataset`; the other splits go block by block over the sky.
    weights
        Catalog column: how often training draws a target, relative to the others; as in `CutoutDataset`.
    balance
        Catalog column of classes, each of which training draws equally often in total.
    epoch_size, replacement
        How many targets a training epoch draws, by default as many as there are; and whether the draws are independent
        of each other, rather than each target its expected number of times, rounded down or up.
    splits
        Share of the targets in each split; whole patches are dealt, or blocks of sky where there are fewer than four
        patches. Not used with one catalog a split. ``predict`` is every target.
    columns
        Catalog columns that travel with the samples.
    threads, cache_bytes
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
    wire, channels_last
        Type in which pixels travel to the device, and memory layout of ``image`` there, as in `CutoutLoader`.
    plan
        A plan or a file of one, to be used instead of making it. After ``setup`` the attribute ``plan`` holds the
        plan in use (with one catalog a split, ``splits`` holds each).
    persistent_workers, prefetch_factor
        As in `CutoutLoader`.
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
        splits: Mapping[str, float] | None = None,
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
        self.fractions = checked_fractions(splits)
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
        self.splits: dict[str, tuple[CutoutPlan, NDArray[np.int64]]] = {}
        self.loaders: dict[str, CutoutLoader] = {}
        """Latest loader of each split that was asked for."""
        self._past = CacheStats()  # of worker processes of earlier loaders
        self._train_loader: CutoutLoader | None = None
        self._owner: L.Trainer | None = None  # of the loader
        self._position: dict[str, int] | None = None
        self._transforming = False

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
        # A batch that was fetched when an exception or a signal came was not trained on; Lightning counts it as ready
        # only after the transforms.
        under_way = max(0, progress.ready - getattr(progress, "processed", progress.ready)) + self._transforming
        done = max(0, done - under_way)
        # With limit_train_batches an epoch is over before the loader's.
        limit = trainer.num_training_batches
        whole = self._train_loader is None or limit >= len(self._train_loader)
        return (epoch, done) if whole or done < limit else (epoch + 1, 0)

    def prepare_data(self) -> None:
        """Make the plans and write them for `setup`, once a node."""
        if self.splits:
            return
        for name, catalog in self._catalogs().items():
            self._build(catalog).save(self._plan_file(name))

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - every split comes from one plan
        """Load or make the plan and deal its targets to the splits."""
        if self.splits:
            return
        quieten_lightning()
        prepared = self.trainer is not None
        plans = {n: self._load(n) if prepared else self._build(c) for n, c in self._catalogs().items()}
        if isinstance(self.plan, CutoutPlan):
            plans[""] = self._fitting(self.plan)
        elif self.plan is not None:
            plans[""] = self._fitting(CutoutPlan.load(self.plan))
        if "" in plans:
            self.plan = plans[""]
        self.splits = (
            dealt(plans[""], self.fractions, self.seed)
            if "" in plans
            else {n: (p, np.arange(len(p))) for n, p in plans.items()}
        )

    def train_dataloader(self) -> CutoutLoader:
        """Return the loader of the training split; each pass is the next epoch.

        A loader that is made anew for the same trainer, or for none, goes on after the one before.
        """
        # Lightning can switch off the shuffling of samplers alone, and means these batches to stay the same.
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        loader = self._loader("train", shuffle=self.shuffle and not overfit, **self._drawing())
        if self._train_loader is not None and self._owner is self.trainer:
            loader.follow(self._train_loader)
        loader.adjusted, self._transforming = self._adjusted, False
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
        training = self.trainer is not None and bool(self.trainer.training)
        self._transforming = training  # and stays so when it fails
        transformed = self.transform(batch, training=training)
        self._transforming = False
        return transformed

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
                f"the {split!r} split holds no target; splits= gives {self.fractions}, and setup() must come first"
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
            **self.options.arguments("seed"),
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
    def _plan_columns(self) -> tuple[str, ...]:
        """Catalog columns that the plan must hold."""
        return tuple(dict.fromkeys([*self.columns, *(c for c in (self.weights, self.balance) if c is not None)]))

    def _catalogs(self) -> dict[str, Any]:
        """Return what must be planned: a catalog a split, or one for all under the empty name."""
        if self.plan is not None:
            return {}
        if isinstance(self.catalog, Mapping) and set(self.catalog) <= set(SPLITS):
            return dict(self.catalog)
        return {"": self.catalog}

    def _fitting(self, plan: CutoutPlan) -> CutoutPlan:
        """Return a plan that was given, if it is what the other arguments say."""
        return fitting(
            plan, bands=self.bands, size=self.size, dataset_type=self.dataset_type, columns=self._plan_columns
        )

    def _build(self, catalog: Any) -> CutoutPlan:
        plan = build_plan(
            catalog,
            self.repo,
            collections=self.collections,
            bands=self.bands,
            size=self.size,
            dataset_type=self.dataset_type,
            skymap=self.skymap,
            tract=self.tract,
            columns=self._plan_columns,
        )
        if len(plan.rejected):
            _log.warning(
                "%d of %d targets are not covered:\n%s",
                len(plan.rejected),
                len(plan.rejected) + len(plan),
                plan.summary(),
            )
        return plan

    def _plan_file(self, name: str) -> Path:
        """Return where the plan waits: known to every process of this run from its settings alone."""
        catalog = self.catalog[name] if name else self.catalog
        source = catalog_key(catalog, self._plan_columns)
        settings = [
            self.repo,
            self.collections,
            source,
            self.bands,
            self.size,
            self.dataset_type,
            self.skymap,
            self.tract,
            self._plan_columns,
        ]
        key = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12]
        root = self.trainer.default_root_dir if self.trainer is not None else "."
        return Path(root) / ".lsstcutouts" / f"plan-{name or 'all'}-{key}.parquet"

    def _load(self, name: str) -> CutoutPlan:
        return CutoutPlan.load(self._plan_file(name))
