"""Trained models that come with the library: folders of kat/models/trained.

digits is a run of its recipe, without the state of its training. In a checkout:

    OMP_NUM_THREADS=1 kat train --config digits
    cp runs/digits/{run.yaml,summary.json,config.json,model.safetensors} kat/models/trained/digits
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED = ("digits",)
"""Their names."""


def model_path(path: str | Path) -> Path:
    """Return the path of a model, which may be the name of a shipped one.

    A file or folder of that name comes first.
    """
    if str(path) in SHIPPED and not Path(path).exists():
        return Path(str(files("kat.models"))) / "trained" / path
    return Path(path)
