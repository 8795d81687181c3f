"""Batches of a dataset: the order of its images, streams, loaders and their workers."""
