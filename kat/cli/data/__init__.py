"""``kat data``: check a dataset before training.

examples:
  kat data check coco:/data/coco
"""
