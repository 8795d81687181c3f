"""Compiles the CPU kernel: one C++ file to one shared library, without torch or its headers.

``setup.py`` uses this module to put the library into the package, and :mod:`kat.ops.cpu.kernel` to
build it on first use where that did not happen. ``setup.py`` loads it by its path, before the
package or torch is installed, so at the top it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCE_FOLDER = Path(__file__).resolve().parent
SOURCES = ("rational_cpu.cpp", "rational_cpu_block.inc", "rational_cpu_scaled.inc")
PREBUILT = Path(__file__).resolve().parent / "_rational_cpu.so"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=fast",
    "-Wno-psabi",
)
COMPILERS = ("c++", "g++", "clang++")
SECONDS_TO_COMPILE = 300


class BuildError(RuntimeError):
    """The kernel cannot be built here; the message says why, and what to do about it."""


def source_hash() -> str:
    """Names the source: a library built from another one is not used."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((SOURCE_FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def compile_library(target: Path) -> None:
    """Compiles the kernel into the file ``target``, which appears whole or not at all.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    compiler = _compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=".so")
    os.close(handle)
    definition = f'-DKAT_SOURCE_HASH="{source_hash()}"'
    source = str(SOURCE_FOLDER / SOURCES[0])
    try:
        _run([*compiler, *FLAGS, definition, source, "-o", draft])
        os.chmod(draft, 0o755)
        os.replace(draft, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(draft)


def cached_library() -> Path:
    """The library in the user's cache, compiled now if it is not there yet.

    Its name tells source, compiler, flags and machine apart. Processes that start together wait
    for the first of them to compile.

    Raises:
        BuildError: there is no compiler, it failed, or the cache cannot be written.
    """
    from kat.files import cache_folder

    compiler = _compiler()
    identity = "\n".join((source_hash(), *compiler, _run([*compiler, "--version"]), *FLAGS))
    identity += f"\n{platform.system()} {platform.machine()}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    target = cache_folder() / f"rational_cpu-{key}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name("build.lock")):
            if not target.exists():
                compile_library(target)
    except OSError as error:
        raise BuildError(f"{error}; set KAT_CACHE_DIR to a folder that can be written") from error
    return target


def _compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, or the first that is installed."""
    command = shlex.split(os.environ.get("CXX", ""))
    if command and shutil.which(command[0]):
        return command
    if command:
        raise BuildError(f"CXX names {command[0]!r}, which is not there; set it to a C++ compiler")
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise BuildError("no C++ compiler is installed; install g++ or clang++, or set CXX to one")


def _run(command: list[str]) -> str:
    """The command's output; BuildError if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS_TO_COMPILE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the C++ compiler cannot be run: {error}") from error
    if done.returncode:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise BuildError(
            f"the C++ compiler {command[0]!r} failed with exit code {done.returncode}; install"
            f" g++ or clang++, or set CXX to a compiler that works. {last_lines}".rstrip()
        )
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes, where the system and the file system have one.

    Without it nothing breaks, since the library is moved into place whole: some work is done twice.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
