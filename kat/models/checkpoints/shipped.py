"""Trained models that come with the library: folders of kat/models/trained.

digits is a run of its recipe, without the state of its training. In a checkout:

    OMP_NUM_THREADS=1 kat train --config digits
    cp runs/digits/{run.yaml,summary.json,config.json,model.safetensors} kat/models/trained/digits
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from kat.errors import MissingFile

SHIPPED = ("digits",)
"""Their names."""


def model_path(path: str | Path) -> Path:
    """Return the path of a model, which may be the name of a shipped one.

    A file or folder of that name comes first.

    Raises:
        MissingFile: nothing has the name, and a shipped model almost does.
    """
    nearest = difflib.get_close_matches(str(path), SHIPPED, 1, 0.8)
    if not nearest or Path(path).exists():
        return Path(path)
    if nearest != [str(path)]:
        raise MissingFile(path, f"it does not exist; did you mean {nearest[0]!r}?")
    return Path(str(files("kat.models"))) / "trained" / path
