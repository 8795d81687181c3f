"""A verification as JSON."""

from __future__ import annotations

import json

import torch

from kat.analysis.verify.backends import Backend, call
from kat.analysis.verify.output import write_json
from kat.analysis.verify.run import verify
from tests.analysis.verify.small import SMALL, wrong


def test_json_holds_the_verdict(tmp_path):
    nan_at_zero = wrong(y=lambda x, t: torch.where(x.abs() > 500, torch.nan, t))
    found = verify(SMALL, [Backend("reference", call("reference")), nan_at_zero], compiled=False)
    write_json(found, tmp_path / "verify.json")
    content = json.loads((tmp_path / "verify.json").read_text())
    assert content["passed"] is False
    (bad,) = (row for row in content["results"] if not row["passed"])
    assert (bad["backend"], bad["quantity"], bad["worst"]["got"]) == ("wrong", "y", "nan")
    assert len(content["ranges"][bad["ranges"]]) == len(bad["ratios"])
    assert content["failures"] == found.failures()
