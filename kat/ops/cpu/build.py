"""Compiles the C++ library of the CPU backend, without torch or its headers.

``setup.py`` builds the library into the package with this module; where that did not happen,
:mod:`kat.ops.cpu.library` builds it on first use. ``setup.py`` loads the module by its path, before
the package or torch is installed. So its top-level imports are of the standard library alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE_FOLDER = Path(__file__).resolve().parent / "csrc"
MAIN = "rational.cpp"
"""Compiled once."""
KERNELS = "kernels.cpp"
"""Compiled once for each instruction set."""
SOURCES = (MAIN, KERNELS, "kernels.h", "scaled.inc", "derivative.inc")
PREBUILT = Path(__file__).resolve().parent / "_rational_cpu.so"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=fast",
    "-Wno-psabi",
)
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
ALL_SETS = (1 << len(INSTRUCTION_SETS)) - 1
COMPILERS = ("c++", "g++", "clang++")
SECONDS_TO_COMPILE = 300


class BuildError(RuntimeError):
    """The library cannot be built here; the message says why, and what to do about it."""


def source_hash() -> str:
    """Identify the source: a library built from another source is not used."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((SOURCE_FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def compile_library(target: Path, instruction_sets: int = ALL_SETS) -> None:
    """Compile the library into the file ``target``, which appears whole or not at all.

    Args:
        target: the file.
        instruction_sets: a sum of 2^i, i the index in ``INSTRUCTION_SETS``; each takes seconds, and
            they are compiled side by side.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    compiler = find_compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as name:
        folder = Path(name)
        units = _units(instruction_sets)
        objects = [folder / f"{i}.o" for i in range(len(units))]
        with ThreadPoolExecutor(len(units)) as pool:
            commands = [
                [*compiler, *FLAGS, *unit, "-c", "-o", str(path)]
                for unit, path in zip(units, objects, strict=True)
            ]
            list(pool.map(_run, commands))
        draft = folder / target.name
        _run([*compiler, "-shared", *map(str, objects), "-o", str(draft)])
        os.chmod(draft, 0o755)
        os.replace(draft, target)


def _units(instruction_sets: int) -> list[list[str]]:
    """Return the sources to compile, each with its definitions."""
    main, kernels = str(SOURCE_FOLDER / MAIN), str(SOURCE_FOLDER / KERNELS)
    own = [f'-DKAT_SOURCE_HASH="{source_hash()}"', f"-DKAT_INSTRUCTION_SETS={instruction_sets}"]
    chosen = [i for i in range(len(INSTRUCTION_SETS)) if instruction_sets >> i & 1]
    return [[main, *own], *([kernels, f"-DKAT_SET={i}"] for i in chosen)]


def cached_library(instruction_sets: int = ALL_SETS) -> Path:
    """Return the library in the user's cache, compiled now if it is not there yet.

    A line on stderr announces that. Its name depends on source, compiler, flags, instruction sets
    and machine. Of several processes that start together, one compiles and the others wait.

    Raises:
        BuildError: there is no compiler, it failed, or others can change the cache, or it is not
            writable.
    """
    compiler = find_compiler()
    from kat.errors import InputError
    from kat.files import cache_folder
    from kat.locks import locked

    identity = "\n".join((source_hash(), *compiler, _run([*compiler, "--version"]), *FLAGS))
    identity += f"\n{platform.system()} {platform.machine()} {instruction_sets}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = cache_folder()
    path = folder / f"rational_cpu-{key}.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o022:
            raise BuildError(
                f"other users can change the files in {folder}: run chmod go-w on it if it is"
                " yours, or set KAT_CACHE_DIR to a folder that only you can write"
            )
        if path.exists():
            return path
        with locked(folder / "build.lock", wait=True):
            if not path.exists():
                sys.stderr.write(f"kat: compiling the CPU kernel once, some seconds, to {folder}\n")
                compile_library(path, instruction_sets)
    except (OSError, InputError) as error:
        raise BuildError(f"{error}; set KAT_CACHE_DIR to a writable folder") from error
    return path


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, or the first installed :data:`COMPILERS`.

    Raises:
        BuildError: there is none, or the system is Windows.
    """
    if sys.platform == "win32":
        raise BuildError("the C++ kernel cannot be built on Windows; use WSL")
    if command := shlex.split(os.environ.get("CXX", "")):
        return command
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise BuildError("no C++ compiler is installed; install g++ or clang++, or set CXX to one")


def _run(command: list[str]) -> str:
    """Return the output of a command.

    Raises:
        BuildError: it fails.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS_TO_COMPILE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"the C++ compiler did not run: {error}; install one, or set CXX to one"
        raise BuildError(why) from error
    if done.returncode:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise BuildError(
            f"the C++ compiler {command[0]!r} failed with exit code {done.returncode}; install"
            f" g++ or clang++, or set CXX to a working compiler. {last_lines}".rstrip()
        )
    return done.stdout
