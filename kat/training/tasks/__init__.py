"""The tasks, a folder each: classification, detection, segmentation."""
