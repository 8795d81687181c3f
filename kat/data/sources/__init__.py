"""Sources of the images of a dataset: one module per format."""
