"""The parts of the Lightning data module."""
