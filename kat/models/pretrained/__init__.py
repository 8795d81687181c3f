"""Changed models of transformers through ``save_pretrained`` and ``from_pretrained``.

The records of what :func:`kat.kanify` and :func:`kat.adapt` changed are noted in the configuration
of the model, which is saved with it, and changes are made again by them before weights are loaded.
"""

from kat.models.pretrained.loader import register_pretrained

__all__ = ["register_pretrained"]
