"""The cost of models: parameters, operations, memory for activations, accuracy against cost."""
