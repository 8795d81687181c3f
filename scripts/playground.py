"""Makes what the pages of the documentation load and the repository does not hold.

python scripts/playground.py

They go to ``build/playground``, and are made once:

    presets.json             the shipped presets
    onnxruntime-web-X.Y.Z/   onnxruntime-web, from npm, checked against the hash below
    katex-X.Y.Z/             KaTeX, from npm in the same way, which sets the formulas of all pages
    digit.onnx, digit.json   the model of the digit's page (scripts/playground_model.py)

As a hook of mkdocs it adds them to the site, beside the pages.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat.files import replacing

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "playground"
RUNTIME = "onnxruntime-web@1.30.0"
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7Qm"
    "RMDs1SigqR4CXAfKYQ=="
)
"""The hash of the package, as npm writes it."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
KATEX = "katex@0.16.22"
KATEX_INTEGRITY = (
    "sha512-XCHRdUw4lf3SKBaJe4EvgqIuWwkPSo9XoeO8GjQW94Bp7TWv9hNhzZjZ+OH9yf1UmLygb7DIT5GS"
    "FQiyt16zYg=="
)
KATEX_FILES = (
    "katex.min.js", "katex.min.css", "LICENSE",
    *(f"fonts/KaTeX_{font}.woff2" for font in (
        "AMS-Regular", "Main-Regular", "Main-Bold", "Main-Italic", "Math-Italic",
        "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular",
    )),
)  # fmt: skip
PACKAGES = ((RUNTIME, INTEGRITY, RUNTIME_FILES), (KATEX, KATEX_INTEGRITY, KATEX_FILES))
WEIGHTS = BUILD / "model" / "digit.safetensors"
"""The model's weights, which tests read."""
MODEL_SCRIPT = ROOT / "scripts" / "playground_model.py"


def main() -> None:
    """Makes what is missing, and lists everything."""
    for name, path in make(BUILD).items():
        print(f"{name}: {path} ({path.stat().st_size / 1e6:.2f} MB)")


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: adds the files to the site."""
    from mkdocs.structure.files import File

    for name, path in make(BUILD).items():
        files.append(File.generated(config, f"playground/{name}", abs_src_path=str(path)))
    return files


def make(build: Path) -> dict[str, Path]:
    """Makes the files that are missing, and returns all as :func:`assets` does.

    Raises:
        SystemExit: npm is missing, fails, or gives a package of another hash.
    """
    for package, integrity, names in PACKAGES:
        folder = folder_of(build, package)
        if not all((folder / name).is_file() for name in names):
            fetch(package, integrity, names, folder)
    make_model(build / "model")
    return assets(build)


def assets(build: Path) -> dict[str, Path]:
    """The files by their names beside the pages, made or not."""
    return {
        "presets.json": ROOT / "kat" / "nn" / "presets.json",
        **{f"onnxruntime/{name}": folder_of(build, RUNTIME) / name for name in RUNTIME_FILES},
        **{f"katex/{name}": folder_of(build, KATEX) / name for name in KATEX_FILES},
        **{name: build / "model" / name for name in ("digit.onnx", "digit.json")},
    }


def folder_of(build: Path, package: str) -> Path:
    """The folder of a package in this version."""
    return build / package.replace("@", "-")


def fetch(package: str, integrity: str, names: Sequence[str], out: Path) -> None:
    """Fetches a package from the registry that npm is set to, and unpacks the files of these names.

    Raises:
        SystemExit: npm is missing, fails, or gives a package of another hash.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is missing: install Node.js, which fetches {package}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--silent", "--pack-destination", folder]
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"npm cannot fetch {package}; its message is above")
        (archive,) = Path(folder).glob("*.tgz")
        check_integrity(archive, integrity)
        unpack(archive, names, out)


def check_integrity(archive: Path, integrity: str) -> None:
    """Compares a file with its hash, ``sha512-`` and base64.

    Raises:
        SystemExit: they differ.
    """
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != integrity:
        raise SystemExit(f"{archive.name} has the hash {found}, not {integrity}: do not use it")


def unpack(archive: Path, names: Sequence[str], out: Path) -> None:
    """Writes files of the package's ``dist``, and its licence, to a folder."""
    with tarfile.open(archive) as package:
        for name in names:
            folder = "package" if name == "LICENSE" else "package/dist"
            source = package.extractfile(f"{folder}/{name}")
            assert source is not None
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(out / name) as path:
                path.write_bytes(source.read())


def make_model(out: Path) -> None:
    """Trains the model, unless the script that did is the same."""
    stamp = out / "script.sha256"
    wanted = hashlib.sha256(MODEL_SCRIPT.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, str(MODEL_SCRIPT), str(out)], check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
