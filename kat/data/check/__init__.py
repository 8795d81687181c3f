"""Checks every image and annotation of a dataset, before training."""

from kat.data.check.between import between_splits
from kat.data.check.report import SPLITS, SplitReport
from kat.data.check.splits import check_split

__all__ = ["SPLITS", "SplitReport", "between_splits", "check_split"]
