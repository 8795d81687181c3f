"""Detection datasets in the format of COCO."""
