"""The page of a verification."""

from __future__ import annotations

import torch

from kat.analysis.reports.verification import write_verification_report
from kat.analysis.verify.backends import Backend, call
from kat.analysis.verify.run import verify
from tests.analysis.verify.small import SMALL, wrong


def test_the_page_holds_the_verdict(tmp_path):
    nan_at_zero = wrong(y=lambda x, t: torch.where(x.abs() > 500, torch.nan, t))
    found = verify(SMALL, [Backend("reference", call("reference")), nan_at_zero], compiled=False)
    page = tmp_path / "verify.html"
    write_verification_report(found, page)
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "1 of 15 comparisons FAILED" in text
    assert "wrong: y, form A, degree 5/4, float32" in text
    good = verify(SMALL, [Backend("reference", call("reference"))], compiled=False)
    write_verification_report(good, page)
    assert "all 8 passed" in page.read_text()
