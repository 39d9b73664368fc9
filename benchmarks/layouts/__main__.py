"""Runs the benchmark."""

from . import main

main()
