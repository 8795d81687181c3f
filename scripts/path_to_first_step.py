"""Which modules of kat lie on the way from ``kat train`` to the first step of the optimizer.

    python scripts/path_to_first_step.py
    python scripts/path_to_first_step.py --src ../other-checkout -- --config fashion_mnist

Trains in this process and prints the modules in the order in which a function of theirs is first
called in the main thread. The first step counts too: some loops run the forward and the backward
pass before the optimizer's step(), others within it. An entry is a call from another module of kat,
be it by way of another library (a hook that a trainer calls), or the resumption of a generator from
there. What runs while modules are imported is left out. Options after -- go to kat train; they take
the place of these here: --config digits --max_steps 1.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
DEFAULTS = {"--config": "digits", "--max_steps": "1"}
OURS = ("kat", "kat_command")


class Recorder:
    """Counts the calls of kat's functions until an optimizer has made its first step.

    Attributes:
        calls: by module, in order of first entry.
        entries: the same of calls from another module.
        stepped: whether the first step was reached.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.stepped = False

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        """Notes one call; for sys.setprofile."""
        module = _module(frame)
        if event != "call" or module is None or not _is_function(frame):
            return
        callers = [caller for caller in _callers(frame) if _module(caller)]
        if all(map(_is_function, callers)):
            self.calls[module] += 1
            self.entries[module] += not callers or _module(callers[0]) != module

    def stop(self, *_: Any) -> None:
        """Ends the recording; for register_optimizer_step_post_hook."""
        sys.setprofile(None)
        self.stepped = True


def _module(frame: FrameType) -> str | None:
    """The module of kat in which a frame's code stands."""
    name = frame.f_globals.get("__name__", "")
    return name if name.split(".")[0] in OURS else None


def _is_function(frame: FrameType) -> bool:
    """Whether it is no body of a module or class, which run when they are imported."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _callers(frame: FrameType) -> Iterator[FrameType]:
    """The frames below, the nearest first."""
    while (caller := frame.f_back) is not None:
        yield caller
        frame = caller


def record(arguments: list[str]) -> Recorder:
    """Runs ``kat train`` in this process; what it prints goes to stderr."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import kat_command

    recorder = Recorder()
    hook = register_optimizer_step_post_hook(recorder.stop)
    with contextlib.redirect_stdout(sys.stderr):
        sys.setprofile(recorder.profile)
        try:
            code = kat_command.main(["train", *arguments])
        finally:
            sys.setprofile(None)
            hook.remove()
    if code or not recorder.stepped:
        raise SystemExit(f"kat train ended with {code}, first step reached: {recorder.stepped}")
    return recorder


def main() -> None:
    """Trains and prints the table."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, default=ROOT, help="the checkout to run")
    options = parser.parse_args(given[:cut])
    extra = given[cut + 1 :]
    sys.path.insert(0, str(options.src.resolve()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    replaced = {argument.split("=")[0].replace("-", "_") for argument in extra}
    defaults = {k: v for k, v in DEFAULTS.items() if k.replace("-", "_") not in replaced}
    with TemporaryDirectory() as out:
        arguments = [word for pair in defaults.items() for word in pair]
        recorder = record([*arguments, "--out", str(Path(out) / "run"), *extra])

    import kat

    assert kat.__file__
    print(f"kat train {' '.join([*arguments, *extra])}, in {Path(kat.__file__).parent.parent}\n")
    width = max(map(len, recorder.calls))
    print(f"{'module':<{width}}  entries  calls")
    for name, calls in recorder.calls.items():
        print(f"{name:<{width}}  {recorder.entries[name]:>7}  {calls:>5}")
    training = [name for name in recorder.calls if name.startswith("kat.training")]
    print(
        f"\nmodules: {len(recorder.calls)}, of kat.training: {len(training)};"
        f" entries: {recorder.entries.total()},"
        f" into kat.training: {sum(recorder.entries[name] for name in training)}"
    )


if __name__ == "__main__":
    main()
