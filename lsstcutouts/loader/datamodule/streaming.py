"""What a data module does with its arguments: plans, splits, loaders, and the place in a training."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import nn

from ...errors import ConfigurationError
from ...order.sampling import Sampling
from ...order.world import World
from ...plan.arguments import AngularSize
from ...plan.cutout_plan import CutoutPlan
from ...plan.read_options import ReadOptions
from ...read.cache.stats import CacheStats
from ...read.cache.tile_cache import TileCache
from ...read.report import Report
from ...sky.geometry import YX
from ...splits.assignment import SplitAssignment, assign_plans, assign_splits
from ...splits.split_options import SPLITS, SplitOptions
from ...transforms.batch import TensorBatch
from ...transforms.statistics import Statistics
from ..dataset import CutoutDataset
from ..loader import CutoutLoader
from ..transfer_options import TransferOptions
from ..workers import WorkerCaches
from .description import check_sources, check_tensors, pixels_of, settings_of
from .fitting import Fitting, Sample
from .hints import check_monitors, quieten_lightning
from .plans import PlanSettings
from .position import TrainingPosition
from .steps import DeviceSteps

__all__ = ["StreamingDataModule"]

_log = logging.getLogger(__name__)


class StreamingDataModule(L.LightningDataModule):
    """Plans once a node, assigns targets to splits, streams them to a trainer, and knows how far the training is.

    The constructor of `CutoutDataModule` sets what is declared here.
    """

    repo: str
    collections: str | Sequence[str]
    catalog: Any
    bands: tuple[str, ...]
    size: YX[int] | AngularSize
    dataset_type: str
    read: ReadOptions
    planes: tuple[str, ...]
    sampling: Sampling
    transfer: TransferOptions
    batch_size: int
    num_workers: int
    seed: int
    split_options: SplitOptions
    columns: tuple[str, ...]
    threads: int | None
    cache: TileCache
    normalisation: nn.Module
    transforms: nn.Module
    augmentations: nn.Module
    plan: str | os.PathLike[str] | CutoutPlan | None
    _of_pixels: Fitting
    _steps: DeviceSteps

    def __init__(self) -> None:
        self._training = TrainingPosition()
        super().__init__()
        self.dealt: SplitAssignment | None = None
        """Which targets belong to which split, and which were left out; known after `setup`."""
        self._trained: Mapping[str, Any] = {}  # settings of the training whose statistics are in use
        self.configuration: Mapping[str, Any] | None = None
        """Plain values that are to go into every checkpoint of a training, such as how the network was made."""
        self._caches: list[WorkerCaches] = []  # of the worker processes of each loader

    @property
    def trainer(self) -> L.Trainer | None:
        """The trainer that uses the data module: the innermost one that runs, or the latest."""
        return self._training.trainer

    @trainer.setter
    def trainer(self, trainer: L.Trainer | None) -> None:
        self._training.trainer = trainer

    @property
    def loaders(self) -> dict[str, CutoutLoader]:
        """Loader of each split that handed out a batch last; one that was asked for, where none has."""
        return self._training.loaders

    @property
    def splits(self) -> dict[str, tuple[CutoutPlan, NDArray[np.int64]]]:
        """Plan and targets of each split; empty before `setup`."""
        return {} if self.dealt is None else self.dealt.splits

    def state_dict(self) -> dict[str, Any]:
        """Return the place of training, for the checkpoint: ``epoch`` and the ``batch`` of it that comes next.

        With it go the settings of this data module and the statistics of ``normalisation``, as plain values.
        """
        run = {} if self.configuration is None else {"run": dict(self.configuration)}
        place = {"train": self._training.state_dict()}
        return {"data": self._settings(), **place, **run, **self._of_pixels.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training resume where the checkpoint was taken, with its statistics in every stage.

        Raises
        ------
        ConfigurationError
            If the network was trained on other bands, another order of them, another size, unit or normalisation.
        ResumeError
            If a training resumes with another repository, collection or catalog, whose plan is another one.
        """
        self.take_over(state_dict)
        # Lightning restores a data module in every stage; only training resumes from there.
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            check_sources(self._trained, self._settings())
            if "train" in state_dict:
                self._training.load_state_dict(state_dict["train"])

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Use the statistics of a training, from its `state_dict`, and refuse what its network was not trained on.

        Raises
        ------
        ConfigurationError
            If the tensors would be others: the message names each setting with both values.
        """
        self._trained = state.get("data", {})
        check_tensors(self._trained, self._settings())
        self._of_pixels.load_state_dict(state, self.normalisation, self.bands, self.read.flux_unit)

    def _settings(self) -> dict[str, Any]:
        return settings_of(self) | pixels_of(self.splits, self.size)

    def _take_from_model(self) -> None:
        """Take over what a network that was loaded from a checkpoint says of its training, for all but a new training."""
        model = getattr(self.trainer, "lightning_module", None)
        trained_on = getattr(model, "trained_on", None)
        if model is None or not isinstance(trained_on, Mapping):
            return
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            model.trained_on = None
        else:
            self.take_over(trained_on)

    def prepare_data(self) -> None:
        """Make the plans and the statistics, and write them for `setup`, once a node."""
        if not self.splits:
            for name, catalog in self._catalogs().items():
                self.plan_settings.made(catalog).save(self._plan_file(name))
        self._take_from_model()
        if self._may_fit and self._of_pixels.wanted(self.normalisation):
            self._deal()
            self._of_pixels.prepare(self._sample(), self._folder())

    def setup(self, stage: str | None = None) -> None:
        """Load or make the plan, deal its targets to the splits, and load or fit the statistics of their pixels.

        A prediction fits none: those of the training come with the checkpoint.

        Parameters
        ----------
        stage
            ``"fit"``, ``"validate"``, ``"test"``, ``"predict"`` or None, which all do the same.
        """
        stages = [one.value for one in TrainerFn]
        if stage is not None and stage not in stages:
            raise ConfigurationError(f"setup({stage!r}): the stage must be one of {', '.join(stages)}, or None")
        self._deal()
        self._take_from_model()
        check_tensors(self._trained, self._settings())  # now that the pixel scale is known
        pixels = pixels_of(self.splits, self.size)
        self._of_pixels.set_up(self.normalisation, self._sample(), self._folder(), pixels, may_fit=self._may_fit)

    @property
    def _may_fit(self) -> bool:
        """Whether statistics may be fitted: to targets that are only predicted on, they would be other ones."""
        return self.trainer is None or self.trainer.state.fn != TrainerFn.PREDICTING

    @property
    def statistics(self) -> Statistics | None:
        """Statistics of the pixels that ``normalisation`` uses; None before `setup`, and where nothing needs any."""
        return self._of_pixels.statistics

    def fit_statistics(
        self, progress: Callable[[int, int], None] | None = None, *, sample: int | None = None
    ) -> Statistics:
        """Fit statistics to the training split now, whatever ``normalisation`` is, and use them.

        Parameters
        ----------
        progress
            Is told targets done and targets in all.
        sample
            Number of targets; by default that of ``normalisation``.
        """
        self._deal()
        return self._of_pixels.fit(self.normalisation, self._sample(), progress, sample)

    def _deal(self) -> None:
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
        self.dealt = (
            assign_splits(plans[""], self.split_options, seed=self.seed)
            if "" in plans
            else assign_plans(plans, self.split_options)
        )

    def train_dataloader(self) -> CutoutLoader:
        """Return the loader of the training split; each pass is the next epoch.

        A loader that is made again for the same trainer, or for none, goes on after the one that is in use. One that is
        asked for in the middle of a training leaves the training as it is.
        """
        # Lightning can switch off the shuffling of samplers alone, and means these batches to stay the same.
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        loader = self._loader("train", replace(self.sampling) if overfit else self.sampling)
        schedule = loader.cutouts.epochs.schedule
        if schedule.left_out:
            rows = schedule.left_out, schedule.rows, schedule.world_size
            _log.warning(
                "%d of %d targets are left out of each epoch, other ones each time: too few for %d ranks", *rows
            )
        return loader

    def val_dataloader(self) -> CutoutLoader | list[CutoutLoader]:
        """Return the loader of the validation split, or none where the split is empty.

        Raises
        ------
        ConfigurationError
            If it is empty and a callback or a schedule of the trainer waits for a metric of validation.
        """
        if self._has("val"):
            return self._loader("val")
        if self.trainer is not None:
            check_monitors(self.trainer, f"the val split holds no target: there is {self.split_options}")
        return []

    def test_dataloader(self) -> CutoutLoader:
        """Return the loader of the test split."""
        return self._loader("test")

    def predict_dataloader(self) -> CutoutLoader:
        """Return the loader of the prediction split."""
        return self._loader("predict")

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
        loader = self._training.loader
        for module in self.augmentations.modules():
            set_epoch = getattr(module, "set_epoch", None)
            if callable(set_epoch) and loader is not None:
                set_epoch(loader.position.epoch)
        return self._steps.run(batch, [self.augmentations, self.normalisation, self.transforms])

    def on_before_batch_transfer(self, batch: TensorBatch, dataloader_idx: int) -> TensorBatch:  # noqa: ARG002
        """Undo the conversion to the trainer's precision: positions do not survive it, and the transforms come first."""
        return self._training.as_handed_out(batch)

    def on_after_batch_transfer(self, batch: TensorBatch, dataloader_idx: int) -> TensorBatch:  # noqa: ARG002
        """Run `transform` on the device; with the augmentations while training. Then comes the trainer's precision."""
        training = self.trainer is not None and bool(self.trainer.training)
        self._training.transforming = training  # and stays so when it fails
        transformed = self._training.converted(self.transform(batch, training=training), batch)
        self._training.transforming = False
        return transformed

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        loader = self._training.loader
        return 0.0 if loader is None else loader.waited

    def report(self, split: str = "train") -> Report:
        """Return what happened to each row of a split in its latest epoch, so far, in this process.

        Catalog rows that no split can hold are in the plan's ``rejected``.

        Raises
        ------
        ConfigurationError
            If the split has not been read.
        """
        if split not in self.loaders:
            raise ConfigurationError(f"the {split!r} split has not been read, so there is no report of it")
        loader = self.loaders[split]
        # To predict, Lightning makes another loader of the same dataset.
        return loader.report if loader.begun else loader.cutouts.report

    def cache_info(self) -> CacheStats:
        """Return what the caches of this process and of all worker processes have done and hold, together."""
        own = self.cache.stats()
        workers = sum((caches.total() for caches in self._caches), CacheStats())
        # Where worker processes read, this process's cache has a budget that it does not use.
        return workers + (own if own.hits + own.misses or not self.num_workers else CacheStats())

    def _split(self, split: str) -> tuple[CutoutPlan, NDArray[np.int64]]:
        if not self._has(split):
            raise ConfigurationError(
                f"the {split!r} split holds no target; there is {self.split_options}, and setup() must come first"
            )
        return self.splits[split]

    def _loader(self, split: str, sampling: Sampling = Sampling(shuffle=False)) -> CutoutLoader:
        plan, rows = self._split(split)
        if self.trainer is not None:
            self.cache.share_among(1, ranks=self.trainer.num_devices)
        dataset = CutoutDataset(
            plan,
            rows=rows,
            batch_size=self.batch_size,
            planes=self.planes,
            columns=self.columns,
            read=self.read,
            sampling=sampling,
            seed=self.seed,
            threads=self.threads,
            cache=self.cache,
            world=self._world(),
            # Targets left out would be others in each epoch, and so would be the batches to overfit.
            pads=split != "train" or getattr(self.trainer, "overfit_batches", 0) > 0,
        )
        dataset.concurrent_loaders = 2 if split in {"train", "val"} and self._has("train") and self._has("val") else 1
        loader = CutoutLoader(
            dataset,
            num_workers=self.num_workers,
            device=self._device(),
            transfer=self.transfer,
            pin_memory=None if self.trainer is None else self._device() is not None,
        )
        self._caches.append(loader.worker_pool.caches)
        self._training.unused = self._unused()
        self._training.made(loader, split)
        return loader

    def _unused(self) -> str:
        """Return what of the modules does something, for a message."""
        modules = {
            "augmentations": self.augmentations,
            "normalisation": self.normalisation,
            "transforms": self.transforms,
        }
        return " and ".join(name for name, module in modules.items() if not isinstance(module, nn.Identity))

    def _has(self, split: str) -> bool:
        return split in self.splits and len(self.splits[split][1]) > 0

    def _device(self) -> torch.device | None:
        """Return the trainer's GPU: batches that are there already, Lightning does not copy."""
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return device if device is not None and device.type == "cuda" else None

    def _world(self) -> World:
        if self.trainer is None:
            return World()
        return World(self.trainer.global_rank, self.trainer.world_size)

    @property
    def plan_settings(self) -> PlanSettings:
        """What decides the plans, besides the catalogs."""
        return PlanSettings(
            self.repo,
            self.collections,
            self.bands,
            self.size,
            self.dataset_type,
            self.read,
            tuple(dict.fromkeys([*self.columns, *self.sampling.columns, *self.split_options.columns])),
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
        return self.plan_settings.path(catalog, name, self._folder())

    def _folder(self) -> Path:
        """Return where processes of one run leave files for each other."""
        return Path(self.trainer.default_root_dir if self.trainer is not None else ".") / ".lsstcutouts"

    def _sample(self) -> Sample:
        """Return what statistics are fitted on: the training split alone."""
        plan, rows = self.splits.get("train", (None, np.zeros(0, np.int64)))
        # Worker processes have caches of their own; this process's stays unused beside them.
        cache = self.cache if self.num_workers == 0 else None
        return Sample(plan, rows, self.bands, self.read, self.seed, cache, self.threads)
