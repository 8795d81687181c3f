"""Deployment of trained models: freezing, quantization, export to files, and opening these."""

from kat.deploy.export import DETECTIONS_TOLERANCE, TOLERANCE, Exported, export_model
from kat.deploy.export_record import ExportRecord
from kat.deploy.feature_maps import FeatureMaps
from kat.deploy.formats import FORMATS
from kat.deploy.freezing import FrozenRational, freeze
from kat.deploy.quantization import quantize_int8
from kat.deploy.resizable import make_resizable
from kat.deploy.runtime import Runtime, open_file, open_model

FILE_FORMATS = tuple(FORMATS)
"""The endings of exported files.

Examples:
    >>> from kat.deploy import FILE_FORMATS
    >>> FILE_FORMATS
    ('pt2', 'onnx')
"""

__all__ = [
    "DETECTIONS_TOLERANCE",
    "FILE_FORMATS",
    "TOLERANCE",
    "ExportRecord",
    "Exported",
    "FeatureMaps",
    "FrozenRational",
    "Runtime",
    "export_model",
    "freeze",
    "make_resizable",
    "open_file",
    "open_model",
    "quantize_int8",
]
