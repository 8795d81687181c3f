"""Callbacks: code that runs at fixed points of training."""
