"""Trained models made ready to run elsewhere: frozen, quantised, exported, opened again."""

from kat.deploy.export import (
    ANSWERS,
    FILE_FORMATS,
    OBJECTS_TOLERANCE,
    TOLERANCE,
    Exported,
    export_model,
)
from kat.deploy.features import FeatureMaps
from kat.deploy.freezing import FrozenRational, freeze
from kat.deploy.program import make_resizable
from kat.deploy.quantization import quantize_int8
from kat.deploy.runtime import Runtime, open_file, open_model
from kat.deploy.stored_record import StoredRecord

__all__ = [
    "ANSWERS",
    "FILE_FORMATS",
    "OBJECTS_TOLERANCE",
    "TOLERANCE",
    "Exported",
    "FeatureMaps",
    "FrozenRational",
    "Runtime",
    "StoredRecord",
    "export_model",
    "freeze",
    "make_resizable",
    "open_file",
    "open_model",
    "quantize_int8",
]
