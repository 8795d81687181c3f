"""The parts of a release: the job that may publish, the image, the bounds of requirements."""

from __future__ import annotations

import re

import pytest

from tests.environment import EXTRAS, ROOT, requirements

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BOUNDED = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_that_may_publish_runs_pinned_actions_alone(path):
    yaml = pytest.importorskip("yaml")
    for name, job in yaml.safe_load(path.read_text())["jobs"].items():
        if "id-token" in job.get("permissions", {}):
            for step in job["steps"]:
                assert re.search(r"@[0-9a-f]{40}$", step.get("uses", "")), (name, step)


def test_the_image_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1:] == ["kat"]


def test_an_upper_bound_stops_before_the_next_major_version():
    found = {r for extra in (None, *EXTRAS) for r in requirements(extra) if r.name in BOUNDED}
    assert {requirement.name for requirement in found} == set(BOUNDED)
    for requirement in found:
        lower = next(s.version for s in requirement.specifier if s.operator == ">=")
        after = int(lower.partition(".")[0]) + 1
        assert not requirement.specifier.contains(f"{after}.0"), requirement
