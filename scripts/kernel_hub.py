"""Makes a package for Hugging Face's ``kernels`` out of the sources of ``kat.ops``.

    python scripts/kernel_hub.py --out kernel
    python -c 'import kernels, pathlib; kernels.get_local_kernel(pathlib.Path("kernel"))'

The folder holds a model card and ``build/torch-cpu`` and ``build/torch-cuda``, the variants for the
two builds of torch. Each is a Python package: ``rational``, and ``layers.GroupRational``, a layer
with ``forward`` alone. It imports torch and itself, and nothing of ``kat``:

- ``from kat.ops.x import y`` becomes a relative import;
- the operator ``kat::rational`` gets a namespace of its own, named by the hash of the sources. So
  the package can be loaded beside kat, and beside another version of itself.

The C++ kernel is compiled on first use, as in a package of kat without it. See RELEASING.md.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "kat-rational"
VERSION = 1
"""Of the package's interface, not of kat: ``get_kernel(..., version=1)``."""
BACKENDS = ("cpu", "cuda")
START = "kat.ops"
CSRC = "ops/cpu/csrc"

INIT = '''"""F(x) = P(x) / Q(x), the activation of the Kolmogorov-Arnold Transformer."""

from . import layers
from .ops import rational

__all__ = ["layers", "rational"]
'''
LAYERS = '''"""Layers that lend their ``forward`` to a model's layers."""

from torch import Tensor, nn

from .ops import rational


class GroupRational(nn.Module):
    """F(x) with one function for each group of channels, channels last.

    Reads ``self.weight_numerator`` (1 or G, m + 1) and ``self.weight_denominator`` (1 or G, n), and
    ``self.form``, "A" if there is none.
    """

    can_torch_compile = True
    has_backward = True

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with the shape and dtype of x (..., C)."""
        form = getattr(self, "form", "A")
        return rational(x, self.weight_numerator, self.weight_denominator, form=form)
'''
CARD = """---
library_name: kernels
license: mit
tags:
- kernels
---

# kat-rational

F(x) = P(x) / Q(x), the group-rational activation of the
[Kolmogorov-Arnold Transformer](https://arxiv.org/abs/2409.10594), forward and backward: a C++
kernel for CPUs, compiled on first use, and Triton kernels for GPUs. Made from kat {version} by
`scripts/kernel_hub.py` of {source}.

```python
import torch
from kernels import get_kernel

kat = get_kernel("{repository}", version={interface})
x, a, b = torch.randn(2, 197, 192), torch.randn(1, 6), torch.randn(8, 4)
y = kat.rational(x, a, b)  # (1 or G, m + 1) and (1 or G, n) coefficients for G groups of channels
```
"""


def main() -> int:
    """Writes the folder; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--repository", default=f"OWNER/{NAME}", help="as the card names it")
    options = parser.parse_args()
    make_package(options.out, options.repository)
    return 0


def make_package(out: Path, repository: str = f"OWNER/{NAME}") -> None:
    """Writes the package into the new folder ``out``, completely or not at all."""
    if out.exists():
        raise SystemExit(f"{out} exists already; remove it, or give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = read_sources()
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        draft = Path(name) / out.name
        for backend in BACKENDS:
            write_variant(draft / "build" / f"torch-{backend}", backend, sources)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        source = project.get("urls", {}).get("Repository", project["name"])
        version = re.search(r'"(.+)"', (ROOT / "kat/version.py").read_text())[1]
        card = CARD.format(version=version, source=source, repository=repository, interface=VERSION)
        (draft / "README.md").write_text(card)
        shutil.move(draft, out)


def read_sources() -> dict[str, str]:
    """The text of each file, by its path in a variant: what ``kat.ops`` imports, and the C++."""
    found: dict[str, str] = {}
    waiting = [*(ROOT / "kat" / "ops").rglob("*.py")]
    while waiting:
        path = waiting.pop()
        key = path.relative_to(ROOT / "kat").as_posix()
        if key not in found:
            found[key] = path.read_text()
            waiting += [module_path(name) for name in imported(found[key])]
    found |= {f"{CSRC}/{path.name}": path.read_text() for path in (ROOT / "kat" / CSRC).iterdir()}
    return {**found, "__init__.py": INIT, "layers.py": LAYERS}


def imported(text: str) -> list[str]:
    """The modules of kat that a module imports from, at its top or inside functions."""
    names = [
        node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)
    ]
    return [name for name in names if name.startswith("kat.")]


def module_path(name: str) -> Path:
    """The file of a module or package of kat."""
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def write_variant(folder: Path, backend: str, sources: dict[str, str]) -> None:
    """Writes the package for one build of torch."""
    digest = hashlib.sha256(json.dumps([backend, sources]).encode()).hexdigest()[:12]
    identity = f"_{NAME.replace('-', '_')}_{backend}_{digest}"
    for key, text in sources.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(independent(text, key, identity) if path.suffix == ".py" else text)
    metadata = {
        "id": identity,
        "name": NAME,
        "version": VERSION,
        "license": "MIT",
        "python-depends": [],
        "backend": {"type": backend},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def independent(text: str, key: str, namespace: str) -> str:
    """A module's text with relative imports and operators of its own.

    Args:
        text: the module.
        key: its path in the variant, ``ops/cpu/build.py``.
        namespace: of the operators.

    Raises:
        SystemExit: kat is imported in another way.
    """
    text = re.sub(r"\bfrom kat\.", "from " + "." * (key.count("/") + 1), text)
    text = text.replace("torch.ops.kat.", f"torch.ops.{namespace}.").replace(
        '"kat::', f'"{namespace}::'
    )
    left = [
        node
        for node in ast.walk(ast.parse(text))
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "kat"
            and not node.level
        )
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "kat" for a in node.names))
        or (isinstance(node, ast.Constant) and str(node.value).startswith(("kat.ops.", "kat::")))
    ]
    if left:
        raise SystemExit(
            f"{key}, line {left[0].lineno}: kat is named in a way that is not rewritten"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
