"""Runs timm's own ``tests/test_models.py`` on kat's classifiers, and counts what passes.

    git clone https://github.com/huggingface/pytorch-image-models
    cd pytorch-image-models/tests
    python KAT/scripts/timm_tests.py test_models.py
    python KAT/scripts/timm_tests.py test_models.py --models "kat_*"
    python KAT/scripts/timm_tests.py test_models.py --models vit_tiny_patch16_224

The last one runs the same tests on timm's own ViT, to compare with. Left out are the tests that
script a model (``torch.jit.script``, which torch has deprecated) and those that download weights.
The models are on the list of those "without the full set of spatial features", as all ViTs are.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import timm

import kat

CLASSIFIERS = ("kat", "micro", "baselines")
"""The modules of :mod:`kat.models` with classifiers; dense models follow other conventions."""
LEFT_OUT = ("torchscript", "pretrained", "inference", "naflex", "NOTSET")
"""Parts of the names of tests: scripting, downloads, another model, and tests without any model."""
VIT_FILTER = "vit_*"
"""It stands on timm's lists of models that are tested in another way; ours belong there too."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the tests, prints the table, and returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", help="timm's tests/test_models.py")
    parser.add_argument("--models", default="*tiny_patch16_224", help="a glob for their names")
    options = parser.parse_args(arguments)
    names = classifiers(options.models)
    timm.list_models = only(names, timm.list_models)  # before the tests are imported
    timm.list_pretrained = lambda *args, **kwargs: []
    results = Results()
    flags = ["-q", "--no-header", "--tb=line", "-c", "/dev/null"]
    flags += ["-p", "no:cacheprovider", "-p", "no:warnings"]
    code = pytest.main([options.tests, *flags], plugins=[results])
    print(f"\ntimm {timm.__version__}, kat {kat.__version__}, models: {', '.join(names)}")
    print(results.table())
    return int(code)


def classifiers(pattern: str) -> list[str]:
    """The names of kat's classifiers, or of timm's models, that match a glob."""
    ours = [name for module in CLASSIFIERS for name in timm.list_models(module=module)]
    return [name for name in ours if fnmatchcase(name, pattern)] or timm.list_models(pattern)


def only(names: list[str], list_models: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """``timm.list_models``, of these models alone."""

    def listed(filter: Any = "", module: Any = "", exclude_filters: Any = "", **_: Any) -> Any:
        if VIT_FILTER in filter:
            return names
        return [] if VIT_FILTER in exclude_filters else names

    return listed


class Results:
    """A plugin of pytest that leaves tests out, and counts the others by function."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.reasons: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keeps the tests that are about our models and what kat supports."""
        items[:] = [
            item
            for item in items
            if "[" in item.name and not any(word in item.name for word in LEFT_OUT)
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts a result; that of the call, or of the setup where it did not come to one."""
        if report.when != "call" and report.outcome == "passed":
            return
        function, _, model = report.location[2].partition("[")
        self.counts[function][report.outcome] += 1
        if report.outcome != "passed":
            self.reasons[f"{function} [{model}"] = reason(report)

    def table(self) -> str:
        """A line for each test, and a line for each that did not pass."""
        outcomes = ("passed", "failed", "skipped")
        rows = [f"{'':44}{''.join(f'{outcome:>9}' for outcome in outcomes)}"]
        for function, counts in self.counts.items():
            rows.append(f"{function:44}{''.join(f'{counts[name]:9}' for name in outcomes)}")
        return "\n".join([*rows, *(f"{name}: {why}" for name, why in self.reasons.items())])


def reason(report: pytest.TestReport) -> str:
    """Why a test did not pass, in a line."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
