"""Deployment of trained models: freezing, quantization, export to files, and opening these."""

from typing import TYPE_CHECKING

from kat.extras import on_first_use

_NAMES = {
    ".export": "DETECTIONS_TOLERANCE TOLERANCE Exported export_model export_transformers",
    ".export_record": "ExportRecord",
    ".formats": "FILE_FORMATS",
    ".freezing": "FrozenRational freeze quantize_int8",
    ".model_forms": "FeatureMaps make_resizable",
    ".run_record": "training_record",
    ".runtime": "Runtime open_file open_model",
    ".with_preprocessing": "WithPreprocessing",
}
if TYPE_CHECKING:
    from kat.deploy.export import (
        DETECTIONS_TOLERANCE,
        TOLERANCE,
        Exported,
        export_model,
        export_transformers,
    )
    from kat.deploy.export_record import ExportRecord
    from kat.deploy.formats import FILE_FORMATS
    from kat.deploy.freezing import FrozenRational, freeze, quantize_int8
    from kat.deploy.model_forms import FeatureMaps, make_resizable
    from kat.deploy.run_record import training_record
    from kat.deploy.runtime import Runtime, open_file, open_model
    from kat.deploy.with_preprocessing import WithPreprocessing
else:
    __getattr__, __dir__ = on_first_use(__name__, "export", _NAMES)

__all__ = [
    "DETECTIONS_TOLERANCE",
    "FILE_FORMATS",
    "TOLERANCE",
    "ExportRecord",
    "Exported",
    "FeatureMaps",
    "FrozenRational",
    "Runtime",
    "WithPreprocessing",
    "export_model",
    "export_transformers",
    "freeze",
    "make_resizable",
    "open_file",
    "open_model",
    "quantize_int8",
    "training_record",
]
