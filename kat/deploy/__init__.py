"""Trained models made ready to run elsewhere: frozen, quantised, exported, opened again."""

from kat.deploy.export import FILE_FORMATS, TOLERANCE, Exported, export_model
from kat.deploy.freezing import FrozenRational, freeze
from kat.deploy.program import make_resizable
from kat.deploy.quantization import quantize_int8
from kat.deploy.runtime import Runtime, open_model
from kat.deploy.stored_record import StoredRecord

__all__ = [
    "FILE_FORMATS",
    "TOLERANCE",
    "Exported",
    "FrozenRational",
    "Runtime",
    "StoredRecord",
    "export_model",
    "freeze",
    "make_resizable",
    "open_model",
    "quantize_int8",
]
