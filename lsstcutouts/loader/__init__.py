"""From a plan to batches on the device: dataset, loader and data module."""
