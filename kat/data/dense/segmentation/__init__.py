"""Datasets for semantic segmentation, as image files with masks."""
