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
from functools import partial
from types import SimpleNamespace
from typing import Any

from kat.errors import InputError

PROJECT = "kolmogorov-arnold-transformer"

_PACKAGES = {
    "cli": "jsonargparse pydantic pydantic_core rich shtab yaml",
    "fit": "numpy scipy",
    "vision": "PIL huggingface_hub safetensors timm torchvision",
    "train": "sklearn tensorboard torchmetrics",
    "dense": "faster_coco_eval",
    "plot": "jinja2 markupsafe matplotlib",
    "export": "onnx onnxruntime onnxscript torchao",
    "data": "datasets webdataset",
    "loggers": "alembic mlflow sqlalchemy wandb",
}
EXTRA_OF_PACKAGE = {name: extra for extra, names in _PACKAGES.items() for name in names.split()}
"""The smallest extra of pyproject.toml that brings a package, by the name that is imported."""

EXTRA_OF_COMMAND = dict.fromkeys(("ablate", "plot", "report", "stability", "verify"), "plot")
EXTRA_OF_COMMAND |= {"convert": "vision", "export": "export", "fit": "fit", "flops": "vision"}
"""The extra that brings what a command of ``kat`` always needs; of the others it is ``train``."""

_DISTRIBUTIONS = {"PIL": "pillow", "mlflow": "mlflow-skinny", "sklearn": "scikit-learn"}
_DISTRIBUTIONS |= {"faster_coco_eval": "faster-coco-eval", "yaml": "pyyaml"}
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
    """Import of packages that may be missing.

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
    """Return a package's ``__getattr__`` and ``__dir__``: its public names are imported on first
    use.

    Args:
        package: ``__name__`` of the package.
        extra: brings all that it needs.
        names: by module, as of the package, the names that it defines; of ``"."``, the package
            itself, the names are modules. Its ``if TYPE_CHECKING:`` imports the same names.
    """
    sources = {name: module for module, text in names.items() for name in text.split()}

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


def import_with(module: str, package: str) -> None:
    """Import a module as soon as a package is imported: now if it is already, else right after.

    Args:
        module: imported, unless it is already; it may import the package itself.
        package: the name of a package that need not be installed.
    """
    if package in sys.modules:
        importlib.import_module(module)
        return

    def find_spec(name: str, *others: Any) -> Any:
        """Find the package as the other finders do; the module is imported once it has run."""
        finders = [one for one in sys.meta_path if one is not finder and name == package]
        found: Any = next(filter(None, (one.find_spec(name, *others) for one in finders)), None)
        if found is not None and found.loader is not None:
            found.loader.exec_module = partial(execute, found.loader.exec_module)
        return found

    def execute(run: Callable[[Any], None], imported: Any) -> None:
        run(imported)
        sys.meta_path[:] = [one for one in sys.meta_path if one is not finder]
        importlib.import_module(module)

    finder: Any = SimpleNamespace(find_spec=find_spec)
    sys.meta_path.insert(0, finder)
