"""Train a run: build it, check it, and take its steps."""
