"""Batches of a dataset: their order, the processes that load them, exact resumption."""
