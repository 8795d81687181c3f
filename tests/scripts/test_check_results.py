"""The figures of the pages of results are those of the committed rows; a wrong one is named."""

import shutil

import pytest

from scripts import check_results


@pytest.mark.slow
def test_the_committed_pages_have_the_figures_of_the_rows_and_another_is_named(tmp_path):
    docs = check_results.ROOT / "docs"
    assert check_results.recompute(docs)[0] == []
    copied = shutil.copytree(docs, tmp_path / "docs")
    shutil.copy(docs.parent / "README.md", tmp_path)
    for name, right, wrong in (
        ("../README.md", "boosting had the lower error in 7", "boosting had the lower error in 8"),
        ("results.md", "On Fashion-MNIST three", "On 3.5 Fashion-MNIST three"),
        ("results/parts.md", "in 11 of", "in 12 of"),
    ):
        page = copied / name
        page.write_text(page.read_text().replace(right, wrong, 1))
    added, figure, quoted = check_results.recompute(copied)[0]
    assert "no fragment covers 3.5: " in added
    assert "the page says 12, the rows say 11" in figure
    assert "the page says 8, the rows say 7" in quoted
