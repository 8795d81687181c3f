"""Evaluation of models on datasets, and diagnosis of poor results."""
