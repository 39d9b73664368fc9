"""Boxes on the tract's pixel grid, projections, and the choice of tract and patch."""
