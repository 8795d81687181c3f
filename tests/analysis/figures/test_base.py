"""The style of all figures: colors for light and dark pages, files that follow the page."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import pytest
from matplotlib import pyplot

from kat.analysis.figures.base import INK, MUTED, colors, panels, save_figure, styled


def _luminance(color):
    """WCAG 2's relative luminance."""
    parts = mpl.colors.to_rgb(color)
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", ["#ffffff", "#15181c", "#1e2129"])
def test_colors_are_seen_on_light_and_dark_pages(page):
    for color in (*colors(10), MUTED):
        dark, light = sorted((_luminance(color), _luminance(page)))
        assert (light + 0.05) / (dark + 0.05) > 3


def test_an_svg_file_is_transparent_text_in_the_color_of_the_page(tmp_path):
    figure, (axes,) = styled(panels)(1, 1, 2.0)
    axes.set_title("a title")
    save_figure(figure, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert ">a title</text>" in text
    assert "prefers-color-scheme: dark" in text
    assert "fill: #ffffff" not in text
    assert INK not in text


def test_letters_that_the_font_lacks_are_text_for_the_viewer_without_a_warning(tmp_path):
    figure, (axes,) = styled(panels)(1, 1, 2.0)
    axes.set_title("\N{CJK UNIFIED IDEOGRAPH-732B}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.svg")
    assert "\N{CJK UNIFIED IDEOGRAPH-732B}</text>" in (tmp_path / "a.svg").read_text()


def test_notebooks_use_the_style_and_a_figure_leaves_the_settings_alone():
    with mpl.rc_context({"text.color": "black"}):
        styled(panels)(1, 1, 2.0)
        assert mpl.rcParams["text.color"] == "black" != INK
    with pyplot.style.context("kat.analysis.figures.style"):
        assert mpl.rcParams["text.color"] == INK
