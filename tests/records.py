"""The record of a small model, for tests of what is made of models."""

from __future__ import annotations

from kat.models import ModelRecord

RECORD = ModelRecord(
    architecture="kat_micro_patch2_8",
    classes=[str(digit) for digit in range(10)],
    input_size=(1, 8, 8),
    mean=(0.5,),
    std=(0.5,),
    interpolation="bicubic",
    crop_pct=1.0,
)
"""A KAT for the digits; others are made of it by ``dataclasses.replace``."""
