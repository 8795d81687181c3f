"""Inspection of models: activations, attention, predictions, stability, symbols."""
