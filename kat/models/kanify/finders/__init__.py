"""The MLPs of a model, found by structure."""
