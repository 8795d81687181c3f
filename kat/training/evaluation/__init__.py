"""Evaluation of stored models on datasets."""
