"""Measurements for maintainers; not part of the wheel. README.md says how to run each."""
