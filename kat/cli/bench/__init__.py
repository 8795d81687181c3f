"""``kat bench``: measure what limits training on this machine.

examples:
  kat bench data --config imagenet_kat_tiny --data folder:/data/imagenet
"""
