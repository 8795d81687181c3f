"""``kat data``: check a dataset, or make one for detection and segmentation.

examples:
  kat data check coco:/data/coco
  kat data make items --out items
"""
