"""Batches of a dataset: the order of its images, loaders and their workers."""
