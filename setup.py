"""Builds the CPU kernel into the package if there is a C++ compiler.

Everything else about the package is in pyproject.toml. A package without the library builds it on
first use, or runs the PyTorch reference: see docs/backends.md.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import tomllib
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = "kat/ops/cpu/csrc"
LIBRARY = "kat.ops.cpu._rational_cpu"


def readme() -> str:
    """README.md, with absolute links to the files of this version if the project has an address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"].get("Repository")
    if address is None:
        return text
    version = re.search(r'__version__ = "(.+)"', (ROOT / "kat" / "version.py").read_text())[1]
    relative = r"\]\((?!https?:|#)"
    text = re.sub(r'(src|srcset)="(?!https?:)', rf'\1="{address}/raw/v{version}/', text)
    return re.sub(relative, f"]({address}/blob/v{version}/", text)


def load_cpu_build() -> ModuleType:
    """kat.ops.cpu.build, without importing kat, which would import torch."""
    path = ROOT / "kat" / "ops" / "cpu" / "build.py"
    spec = importlib.util.spec_from_file_location("cpu_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildLibrary(build_ext):
    """Compiles a plain shared library, which is no Python module; a failure is only logged."""

    def build_extension(self, ext: Extension) -> None:
        cpu_build = load_cpu_build()
        try:
            cpu_build.compile_library(Path(self.get_ext_fullpath(ext.name)).resolve())
        except (cpu_build.BuildError, OSError) as error:
            logging.getLogger(__name__).warning("the CPU kernel was not built: %s", error)

    def get_ext_filename(self, ext_name: str) -> str:
        return str(Path(*ext_name.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class TagWheel(bdist_wheel):
    """Tags the wheel with the platform if it holds the library, and with no version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        library = Path(self.get_finalized_command("build_ext").get_ext_fullpath(LIBRARY))
        return "py3", "none", super().get_tag()[2] if library.is_file() else "any"


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            LIBRARY,
            sources=[f"{SOURCES}/rational.cpp", f"{SOURCES}/kernels.cpp"],
            depends=sorted(map(str, [*Path(SOURCES).glob("*.h"), *Path(SOURCES).glob("*.inc")])),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TagWheel},
)
