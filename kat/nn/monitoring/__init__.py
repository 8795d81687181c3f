"""What a model does in training: stability of its layers, history of its coefficients."""
