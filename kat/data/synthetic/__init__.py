"""Synthetic data for detection and segmentation: real images of single items, composed."""

from kat.data.synthetic.writer import make_items

__all__ = ["make_items"]
