"""Trained models that come with the library: folders of kat/models/trained.

digits is a run of its recipe, without the state of its training. In a checkout:

    OMP_NUM_THREADS=1 kat train --config digits
    cp runs/digits/{run.yaml,summary.json,config.json,model.safetensors} kat/models/trained/digits
"""

from __future__ import annotations

import difflib
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


def suggestion(path: str | Path) -> str:
    """Return the end of a message on a missing model, if a shipped one is almost called so."""
    nearest = difflib.get_close_matches(str(path), SHIPPED, 1, 0.8)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
