"""Optional dependencies: the extra that brings each package, and imports on first use.

The core of the library needs only torch. Everything else is imported when it is used, so that what
is missing is named, in one line, by what needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kat.errors import InputError

PROJECT = "kolmogorov-arnold-transformer"

_PACKAGES = {
    "cli": "jsonargparse pydantic pydantic_core rich shtab yaml",
    "fit": "numpy scipy",
    "vision": "PIL huggingface_hub safetensors timm torchvision",
    "train": "pi_heif sklearn tensorboard torchmetrics",
    "dense": "faster_coco_eval",
    "plot": "jinja2 markupsafe matplotlib",
    "export": "onnx onnxruntime onnxscript torchao transformers",
    "data": "datasets",
    "loggers": "alembic mlflow sqlalchemy wandb",
}
EXTRA_OF_PACKAGE: dict[str, str] = {}
for _extra, _names in _PACKAGES.items():
    EXTRA_OF_PACKAGE |= dict.fromkeys(_names.split(), _extra)
"""The smallest extra of pyproject.toml that brings a package, by the name that is imported."""

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "faster_coco_eval": "faster-coco-eval",
    "mlflow": "mlflow-skinny",
    "pi_heif": "pi-heif",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""The names of packages that are installed under another name than they are imported."""


class MissingPackage(InputError, ImportError):
    """A package that is not installed. The message names it and the command that installs it.

    Args:
        what: needs it, the subject of the message.
        package: the name that is imported, one of :data:`EXTRA_OF_PACKAGE`.
        extra: brings all that it needs; by default the one that brings the package.
    """

    def __init__(self, what: str, package: str, extra: str | None = None) -> None:
        super().__init__(
            f"{what} needs the package {_DISTRIBUTIONS.get(package, package)}:"
            f' pip install "{PROJECT}[{extra or EXTRA_OF_PACKAGE[package]}]"'
        )
        self.name = package


def is_installed(package: str) -> bool:
    """Return True if a package can be imported; a folder of that name is not enough."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@contextmanager
def needed_by(what: str, extra: str | None = None) -> Iterator[None]:
    """Name, for imports in the body, the package that is missing and the command to install it.

    Args:
        what: needs them, the subject of the error.
        extra: brings all that it needs, and replaces the smaller extra that brings the missing
            package: cli, fit, vision or train; by default the one that brings the package.

    Raises:
        MissingPackage: one is missing that an extra of this project brings.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingPackage) as error:
        package = (error.name or "").partition(".")[0]
        if EXTRA_OF_PACKAGE.get(package) not in ("cli", "fit", "vision", "train"):
            extra = None
        named_already = isinstance(error, MissingPackage) and extra is None
        if package not in EXTRA_OF_PACKAGE or named_already or is_installed(package):
            raise  # of a package that is there, a part is missing: it is of another version
        raise MissingPackage(what, package, extra) from None


def require(package: str, what: str) -> Any:
    """Import a package that may be missing.

    Args:
        package: its name.
        what: needs it, the subject of the error.

    Raises:
        MissingPackage: it is missing.
    """
    with needed_by(what):
        return importlib.import_module(package)


def on_first_use(
    package: str, extra: str, names: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its names on first use.

    Args:
        package: ``__name__`` of the package.
        extra: brings all that it needs.
        names: by module, as of the package, the names that it defines; of ``"."``, the package
            itself, the names are modules. Its ``if TYPE_CHECKING:`` imports the same names.
    """
    sources: dict[str, str] = {}
    for module, text in names.items():
        sources |= dict.fromkeys(text.split(), module)

    def getattribute(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        source = sources[name]
        with needed_by(f"{package}.{name}", extra):
            if source == ".":
                return importlib.import_module(f".{name}", package)
            value = getattr(importlib.import_module(source, package), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, lambda: sorted({*vars(sys.modules[package]), *sources})
