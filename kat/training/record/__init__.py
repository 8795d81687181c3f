"""A run, its state, and what is kept of it: its directory and its checkpoints."""
