"""Targets: where on the sky to cut, and what travels along."""
