"""The ``kat`` command. It lives outside the package so that ``kat --help`` does not import torch.

A command is a file of ``kat/cli``, found by itself: its docstring begins with its name and summary,
"``kat eval``: evaluate checkpoints", and it has ``main(arguments) -> int | None``. A file without
``main`` is a group, such as ``kat plot``: its functions are the commands, such as ``kat plot
curves``, each with such a docstring. A command is imported when it is called.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import re
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

USAGE_ERROR, FAILED = 2, 1
BROKEN_PIPE = 141
"""The exit code that shells report for other programs: 128 + SIGPIPE."""
STOPPED, INTERRUPTED = 75, 130
_RESUMABLE = ("train", "ablate")
"""The commands that a scheduler may stop and start again."""

_EXAMPLES = """\
examples:
  kat train --config digits                              a first run, in about a minute
  kat train --config imagenet_kat_tiny --data folder:/data/imagenet
  kat train --config digits --monitor                    and record the GR-KAN layers
  kat eval runs/digits                                   the best weights of a run
  kat predict cat.jpg dog.jpg --checkpoint runs/digits --json predictions.json
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat export runs/digits --out digits.onnx               a file that runs elsewhere
  kat fit "x * sigmoid(1.702 * x)" --out act.json        coefficients for init="act.json"
  kat flops models                                       the paper's table of costs
  kat ablate components                                  the contribution of each part of KAT
  kat plot activations runs/digits --out activations.svg
  kat report runs/digits                                 a page of the run
  kat data check coco:/data/coco                         find invalid images and annotations
  kat verify                                             check every backend on this machine

'kat help COMMAND' lists the options of a command, 'kat --version' prints the version, and
'kat completion bash' (zsh, fish) lets the shell complete commands and options."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 failed, 2 bad input, 75 stopped and can be resumed, 130 Ctrl-C.

    If nobody reads its output any more, as in ``kat flops models | head -1``, it ends quietly; with
    standard output closed from the start, as by ``>&-``, it prints nothing.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)
    code = 0
    try:
        try:
            code = _run(arguments)
        except KeyboardInterrupt:  # while modules are imported
            code = INTERRUPTED
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:  # a full disk
        if not code:
            sys.stderr.write(f"kat: standard output cannot be written: {error.strerror}\n")
        code = code or FAILED
    else:
        return code
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # else Python fails as it ends
    return code


def _run(arguments: list[str] | None) -> int:
    rest = sys.argv[1:] if arguments is None else arguments
    if rest[:1] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"kat {version('kolmogorov-arnold-transformer')}\n")
        return 0
    path = _command_folder()
    names = ["kat"]
    while commands := find_commands(path):
        name, *rest = rest or ["--help"]
        if name == "help" and rest:  # kat help train
            name, *rest = [*rest, "--help"]
        if name in ("-h", "--help", "help"):
            sys.stdout.write(_usage(names, path, commands) + "\n")
            return 0
        if name not in commands:
            return _refuse(names, name, commands)
        names.append(name)
        if path.is_file():
            break
        path /= f"{name}.py"
    if names[1] in _RESUMABLE:
        for number in {signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)}:
            signal.signal(number, _stop)
    from kat.cli.errors import run_command
    from kat.extras import EXTRA_OF_COMMAND, MissingPackage, needed_by

    def command() -> int | None:
        called = " ".join(names)
        try:
            with needed_by(called, EXTRA_OF_COMMAND.get(names[1], "train")):
                module = importlib.import_module(f"kat.cli.{names[1]}")
                code: int | None = getattr(module, names[2] if names[2:] else "main")(rest)
        except MissingPackage as error:
            if not {"-h", "--help"} & set(rest):
                raise
            sys.stdout.write(
                f"{_docstrings(path)[names[-1]]}\n\nTo see the options as well: {error}\n"
            )
            return 0
        return code

    return run_command(command, rest)


def _stop(number: int, frame: object) -> None:
    """End the process at once, outside the steps of training, which handle signals themselves.

    An exception could be caught by any of the modules that are being imported. A process that is
    killed leaves nothing half-written, so this one leaves nothing either.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"kat: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(STOPPED)


def find_commands(path: Path) -> dict[str, str]:
    """Return the commands of a folder, or of a group's file: their names and summaries."""
    found = {}
    if path.is_dir():
        docs = {file.stem: _docstrings(file)[file.stem] for file in path.glob("*.py")}
    else:
        docs = {name: doc for name, doc in _docstrings(path).items() if name != path.stem}
    for name, doc in sorted(docs.items()):
        match = re.match(r"``kat [\w ]+``: (.*?)\.?\n", doc + "\n")
        if match:
            found[name] = match[1]
    return found


def _command_folder() -> Path:
    spec = find_spec("kat")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "cli"


def _docstrings(file: Path) -> dict[str, str]:
    """Return the docstrings of a file, under its own name, and of its functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    docs = {function.name: ast.get_docstring(function) or "" for function in functions}
    return docs | {file.stem: ast.get_docstring(tree) or ""}


def _usage(names: list[str], path: Path, commands: dict[str, str]) -> str:
    """Return the text of ``kat --help``, or of the help of a group of commands."""
    if len(names) == 1:
        about = "The Kolmogorov-Arnold Transformer (arXiv 2409.10594): train, evaluate and use KAT."
        examples = _EXAMPLES
    else:
        doc = _docstrings(path)[path.stem].partition(": ")[2]
        about, _, examples = (doc[:1].upper() + doc[1:]).partition("\n\n")
    rows = "\n".join(f"  {name:<11} {summary}" for name, summary in commands.items())
    return (
        f"usage: {' '.join(names)} COMMAND [OPTIONS]\n\n{about}\n\ncommands:\n{rows}\n\n{examples}"
    )


def _refuse(names: list[str], name: str, commands: dict[str, str]) -> int:
    nearest = difflib.get_close_matches(name, commands, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    called = " ".join(names)
    sys.stderr.write(f"kat: unknown command {name!r}{hint} ('{called} --help' lists them)\n")
    return USAGE_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
