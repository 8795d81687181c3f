"""The tasks, one file each: classification, detection, segmentation."""
