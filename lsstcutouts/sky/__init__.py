"""Boxes on the tract's pixel grid, projections, and the tract and patch of sky positions."""
