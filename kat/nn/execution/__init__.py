"""Execution of GR-KAN layers: as modules, as one formula, and in blocks of rows."""
