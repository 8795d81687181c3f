"""Optimizer, schedule, precision, EMA and freezing."""
