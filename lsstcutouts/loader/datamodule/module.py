"""The Lightning data module: plans, splits, loaders, statistics and device steps of a training."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import nn

from ...errors import ConfigurationError
from ...order.sampling import Sampling
from ...plan.arguments import SizeLike
from ...plan.cutout_plan import CutoutPlan
from ...plan.read_options import ReadOptions, check_choice
from ...plan.splits.split_options import SplitOptions, Splits
from ...read.cache.stats import CacheStats
from ...read.cache.tile_cache import TileCache
from ...read.options import ReaderOptions
from ...read.report import Report
from ...transforms.augmentation import STAGES, runs_in
from ...transforms.batch import TensorBatch
from ...transforms.statistics import Statistics
from ..dataset import CutoutDataset
from ..loader import CutoutLoader
from ..transfer_options import TransferOptions
from .description import (
    check_counts,
    check_sources,
    check_tensors,
    checked_module,
    html_of,
    pixels_of,
    read_arguments,
    settings_of,
)
from .fitting import Fitting, Sample
from .sources import DEFAULT_TYPE, DataSource
from .split_plans import SplitPlans
from .steps import DeviceSteps
from .training_loaders import TrainingLoaders, check_monitors, ignore_misleading_warnings

__all__ = ["CutoutDataModule"]

_log = logging.getLogger(__name__)


class CutoutDataModule(L.LightningDataModule):
    """Stream cutouts from a Butler repository, or from an export, into a Lightning training.

    The constructor reads nothing but the description of an export, and copies one on a server to the disk. ``prepare_data`` makes the plan once per node and writes it to a file, which ``setup``
    of every process loads; without ``prepare_data``, ``setup`` makes the plan itself.

    Parameters
    ----------
    repo
        Path, URL or label of a Butler repository; or the folder of an export, which has its own catalog, and whose values are
        the defaults of the next four.
    collections
        Collection, or a list that is searched in order.
    catalog
        A path, a table, a `Catalog` or a `Footprint`; or a mapping of split names (``train``, ``val``, ``test``, ``predict``) to these.
    bands
        One-letter bands or a list of names; the order of the channels.
    size
        Pixels, an angle such as ``"12 arcsec"``, or ``(height, width)`` of either.
    dataset_type
        Dataset type of the images.
    plan
        A plan or a file of one, to be used instead of making it. After ``setup`` the attribute ``plan`` holds the
        plan in use (with one catalog for each split, ``splits`` holds each plan).
    planes
        Planes of a batch, as in `CutoutDataset`.
    columns
        Catalog columns that a batch contains.
    batch_size
        Targets per batch and process.
    num_workers
        0 reads with threads inside this process, which is fastest.
    threads
        Decoding threads; by default the cores that this process may use.
    cache_bytes
        As in `LsstDataFetcher`; all loaders of this process use one cache. Worker processes divide its budget, those of
        training and validation together.
    seed
        Of the order, the splits and the noise of ``fill``.
    read
        How pixels are read, and the policies: `ReadOptions`.
    sampling
        Which targets an epoch of training uses, and in which order: `Sampling`, whose ``weights`` and ``balance`` are names of
        catalog columns. The other splits are read block by block over the sky.
    splits
        Which targets belong to which split: `SplitOptions`, or plain shares such as ``{"train": 0.8, "val": 0.2}``. With one
        catalog for each split only ``leaks`` and ``select`` are used.
    transfer
        How batches travel to the device, and whether the three modules below run compiled: `TransferOptions`.
    normalisation
        Module over a batch, run on the device before ``transforms``, for every split. A
        `~lsstcutouts.transforms.Normalise` in it is fitted to the training split, once, and on resume takes the
        statistics of the checkpoint.
    transforms
        Module over a batch, run on the device for every split. Lightning's trainer runs it; a plain loop calls
        ``data.transform(batch)``.
    augmentations
        Module over a batch, run on the device in training, before all others: on pixels in the unit of the files. In
        validation and test run those of its modules that name these in their ``stages``.
    """

    def __init__(
        self,
        repo: str,
        collections: str | Sequence[str] | None = None,
        catalog: Any = None,
        bands: str | Sequence[str] | None = None,
        size: SizeLike | None = None,
        *,
        dataset_type: str = DEFAULT_TYPE,
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
        self._loaders = TrainingLoaders()
        super().__init__()
        source = DataSource.of(repo, collections, catalog, bands, size, dataset_type, plan)
        self.repo, self.collections, self.catalog = source.repo, source.collections, source.catalog
        self.bands, self.size, self.dataset_type, self.read = source.bands, source.size, source.dataset_type, read
        checked = ReaderOptions.of(read, planes=planes, seed=seed)
        source.check(checked)
        self.planes = tuple(checked.planes)
        given_threads = {} if threads is None else {"threads": (threads, 1)}
        check_counts(batch_size=(batch_size, 1), num_workers=(num_workers, 0), **given_threads)
        for name, given, kind in (("sampling", sampling, Sampling), ("transfer", transfer, TransferOptions)):
            if not isinstance(given, kind):
                raise ConfigurationError(f"{name} must be {kind.__name__}(...), got {given!r}")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.sampling, self.transfer = seed, sampling, transfer
        self.split_options = SplitOptions.of(splits)
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        self.threads, self.cache = threads, TileCache(cache_bytes)
        all_columns = tuple(dict.fromkeys([*self.columns, *sampling.columns, *self.split_options.columns]))
        self.plans = SplitPlans(source.settings(read, all_columns), self.catalog, plan, self.split_options, seed)
        """The plans and the splits of their targets."""
        self.normalisation = checked_module("normalisation", normalisation)
        self.transforms = checked_module("transforms", transforms)
        self.augmentations = checked_module("augmentations", augmentations)
        self._statistics = Fitting(self.normalisation, self.augmentations)
        self._steps = DeviceSteps(compile=transfer.compile)
        self._trained: Mapping[str, Any] = {}  # settings of the training whose statistics are in use
        self.configuration: Mapping[str, Any] | None = None
        """Plain values to store in every checkpoint of a training, such as how the network was made."""

    def _repr_html_(self) -> str:
        return html_of(self)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | os.PathLike[str], **changes: Any) -> Self:  # type: ignore[override]
        """Return the data module of a checkpoint's training, with its statistics.

        Parameters
        ----------
        checkpoint_path
            Written by a training with a data module of this class.
        changes
            Arguments that are to be different, such as ``catalog``, ``repo``, ``batch_size`` and ``columns``.

        Raises
        ------
        ConfigurationError
            If the file has no settings of a data module; if a change makes other tensors than those that the network was
            trained on; if the catalog was only in memory and is not given, or a module cannot be created again.
        """
        settings, state = read_arguments(checkpoint_path, changes)
        data = cls(**{**settings, **changes})
        data.take_over(state)
        return data

    @property
    def trainer(self) -> L.Trainer | None:
        """The trainer that uses the data module: the innermost running one, or the latest."""
        return self._loaders.trainer

    @trainer.setter
    def trainer(self, trainer: L.Trainer | None) -> None:
        self._loaders.trainer = trainer

    @property
    def loaders(self) -> dict[str, CutoutLoader]:
        """The loader of each split that delivered the latest batch; before the first batch a loader that was made."""
        return self._loaders.loaders

    @property
    def plan(self) -> str | os.PathLike[str] | CutoutPlan | None:
        """The plan in use after `setup`; before it, the argument. None with one catalog for each split."""
        return self.plans.plan

    @property
    def splits(self) -> dict[str, tuple[CutoutPlan, NDArray[np.int64]]]:
        """Plan and targets of each split; empty before `setup`."""
        return self.plans.splits

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the checkpoint, as plain values.

        ``train`` is the position of the training, as `CutoutLoader.state_dict` returns it; the rest are the settings of this
        data module and the statistics of ``normalisation``.
        """
        run = {} if self.configuration is None else {"run": dict(self.configuration)}
        train = self._loaders.state_dict()
        return {"data": self._settings(), "train": train, **run, **self._statistics.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume a training at the position of a checkpoint; other stages only take its statistics.

        Raises
        ------
        ConfigurationError
            If the network was trained on other bands, another order of them, another size, unit or normalisation.
        ResumeError
            If a training resumes with another repository, collection or catalog, and the plan is different.
        """
        self.take_over(state_dict)
        # Lightning restores a data module in every stage; only training has a position.
        if self.trainer is None or self._loaders.fitting:
            check_sources(self._trained, self._settings())
            if "train" in state_dict:
                self._loaders.load_state_dict(state_dict["train"])

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Use the statistics of a training, from its `state_dict`, and refuse what its network was not trained on.

        Raises
        ------
        ConfigurationError
            If the tensors would be different: the message names each setting with both values.
        """
        self._trained = state.get("data", {})
        check_tensors(self._trained, self._settings())
        self._statistics.load_state_dict(state, self.normalisation, self.bands, self.read.flux_unit)

    def _settings(self) -> dict[str, Any]:
        return settings_of(self) | pixels_of(self.splits, self.size)

    def _take_from_model(self) -> None:
        """Use what a network loaded from a checkpoint stores of its training, except for a new training."""
        model = getattr(self.trainer, "lightning_module", None)
        trained_on = getattr(model, "trained_on", None)
        if model is None or not isinstance(trained_on, Mapping):
            return
        if self._loaders.fitting:
            model.trained_on = None
        else:
            self.take_over(trained_on)

    def prepare_data(self) -> None:
        """Make the plans and the statistics, and write them for `setup`, once per node."""
        self.plans.prepare(self._folder)
        self._take_from_model()
        if not self._loaders.predicting and self._statistics.wanted(self.normalisation):
            self._load_plans()
            self._statistics.prepare(self.normalisation, self._sample(), self._folder)

    def setup(self, stage: str | None = None) -> None:
        """Load or make the plan, assign its targets to the splits, and load or fit the statistics of their pixels.

        A prediction fits no statistics: those of the training come with the checkpoint.

        Parameters
        ----------
        stage
            ``"fit"``, ``"validate"``, ``"test"``, ``"predict"`` or None, which all do the same.
        """
        if stage is not None and stage not in (stages := [one.value for one in TrainerFn]):
            raise ConfigurationError(f"setup({stage!r}): stage must be one of {', '.join(stages)}, or None")
        self._load_plans()
        self._take_from_model()
        check_tensors(self._trained, self._settings())  # now that the pixel scale is known
        pixels, may_fit = pixels_of(self.splits, self.size), not self._loaders.predicting
        self._statistics.set_up(self.normalisation, self._sample(), self._folder, pixels, may_fit=may_fit)

    @property
    def statistics(self) -> Statistics | None:
        """Statistics of the pixels that ``normalisation`` uses; None before `setup`, and if nothing needs them."""
        return self._statistics.statistics

    def fit_statistics(
        self, progress: bool | Callable[[int, int], None] = True, *, sample: int | None = None
    ) -> Statistics:
        """Fit statistics to the training split now, whatever ``normalisation`` is, and use them.

        Parameters
        ----------
        progress
            Whether a bar is shown, or what is called with the number of targets that are done and of all targets.
        sample
            Number of targets; by default that of ``normalisation``.
        """
        self._load_plans()
        return self._statistics.fit(self.normalisation, self._sample(), progress, sample)

    def train_dataloader(self) -> CutoutLoader:
        """Return a loader of the training split; each pass is the next epoch.

        A new loader for the same trainer, or without a trainer, continues after the loader in use. A loader that is made in
        the middle of a training does not change the training.
        """
        # Lightning switches off shuffling only for samplers, but these batches must stay the same.
        overfitting = self._loaders.overfitting
        loader = self._loader("train", replace(self.sampling, shuffle=False) if overfitting else self.sampling)
        schedule = loader.cutouts.epochs.schedule
        if schedule.left_out:
            rows = schedule.left_out, schedule.rows, schedule.world_size
            _log.warning("each epoch leaves out %d of %d targets, others each time: too few for %d ranks", *rows)
        return loader

    def val_dataloader(self) -> CutoutLoader | list[CutoutLoader]:
        """Return a loader of the validation split, or an empty list if the split is empty.

        Raises
        ------
        ConfigurationError
            If it is empty and a callback or a schedule of the trainer waits for a metric of validation.
        """
        if self.plans.has("val"):
            return self._loader("val")
        if self.trainer is not None:
            check_monitors(self.trainer, f"the val split has no targets, with {self.split_options}")
        return []

    def test_dataloader(self) -> CutoutLoader:
        """Return a loader of the test split."""
        return self._loader("test")

    def predict_dataloader(self) -> CutoutLoader:
        """Return a loader of the prediction split."""
        return self._loader("predict")

    def transform(self, batch: TensorBatch, *, training: bool = False, stage: str | None = None) -> TensorBatch:
        """Return a batch of a loader as a model takes it: ``normalisation`` and ``transforms`` run on its device.

        Parameters
        ----------
        training, stage
            ``"train"`` (or ``training``), ``"val"``, ``"test"`` or ``"predict"``: its ``augmentations`` run first.
        """
        stage = stage or ("train" if training else "predict")
        check_choice("stage", stage, (*STAGES, "predict"))
        augmentations = runs_in(stage, self.augmentations)
        epoch = self._loaders.epoch if stage == "train" else 0
        for module in (one for top in augmentations for one in top.modules()):
            if epoch is not None and callable(set_epoch := getattr(module, "set_epoch", None)):
                set_epoch(epoch)
        return self._steps.run(batch, [*augmentations, self.normalisation, self.transforms])

    def on_before_batch_transfer(self, batch: TensorBatch, dataloader_idx: int) -> TensorBatch:  # noqa: ARG002
        """Undo the conversion to the trainer's precision, which would lose positions; the transforms come first."""
        return self._loaders.as_delivered(batch)

    def on_after_batch_transfer(self, batch: TensorBatch, dataloader_idx: int) -> TensorBatch:  # noqa: ARG002
        """Run `transform` of the trainer's stage on the device; then convert to the trainer's precision."""
        stage = self._loaders.stage
        self._loaders.transforming = stage == "train"  # and stays so when it fails
        transformed = self._loaders.converted(self.transform(batch, stage=stage), batch)
        self._loaders.transforming = False
        return transformed

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        loader = self._loaders.loader
        return 0.0 if loader is None else loader.waited

    def report(self, split: str = "train") -> Report:
        """Return what happened to each row of a split in its latest epoch, so far, in this process.

        Catalog rows that no split can contain are in the plan's ``rejected``.

        Raises
        ------
        ConfigurationError
            If the split has not been read.
        """
        if split not in self.loaders:
            raise ConfigurationError(f"there is no report of the {split!r} split before it has been read")
        loader = self.loaders[split]
        # For a prediction, Lightning creates another loader of the same dataset.
        return loader.report if loader.begun else loader.cutouts.report

    def cache_info(self) -> CacheStats:
        """Return the sum of the cache statistics of this process and of all worker processes."""
        own, workers = self.cache.stats(), self._loaders.worker_stats()
        used = own.hits + own.misses or not self.num_workers  # else its budget is not in use
        return workers + own if used else workers

    def _loader(self, split: str, sampling: Sampling = Sampling(shuffle=False)) -> CutoutLoader:
        if not self.plans.has(split):
            raise ConfigurationError(f"the {split!r} split has no targets ({self.split_options}); call setup() first")
        plan, rows = self.splits[split]
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
            world=self._loaders.world,
            # Targets left out would be different in each epoch, and so would be the batches to overfit.
            pads=split != "train" or self._loaders.overfitting,
        )
        dataset.concurrent_loaders = sum(map(self.plans.has, ("train", "val"))) if split in {"train", "val"} else 1
        names = ("augmentations", "normalisation", "transforms")
        self._loaders.unused = " and ".join(one for one in names if not isinstance(getattr(self, one), nn.Identity))
        return self._loaders.new(dataset, split, num_workers=self.num_workers, transfer=self.transfer)

    def _load_plans(self) -> None:
        ignore_misleading_warnings()
        self.plans.load(None if self.trainer is None else self._folder)

    @property
    def _folder(self) -> Path:
        """Folder where processes of one run leave files for each other."""
        return Path(self.trainer.default_root_dir if self.trainer is not None else ".") / ".lsstcutouts"

    def _sample(self) -> Sample:
        """Return the training split, for the statistics."""
        plan, rows = self.splits.get("train", (None, np.zeros(0, np.int64)))
        cache = self.cache if self.num_workers == 0 else None  # worker processes have their own
        return Sample(plan, rows, self.bands, self.read, self.seed, cache, self.threads)
