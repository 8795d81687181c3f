"""Several processes: started and connected, exchanging values, sharing a model, asked to stop."""
