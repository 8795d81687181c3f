"""Sweeps: grids of settings and seeds, and the launcher that trains their runs in parallel."""
