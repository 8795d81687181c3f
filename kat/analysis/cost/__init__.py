"""The cost of models and layers: parameters, operations, memory for activations."""
