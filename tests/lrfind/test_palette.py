"""Tests of lrfind.palette: colours that show on light and on dark."""

from __future__ import annotations

import pytest

from lrfind import palette

COLORS = {name: color for name, color in vars(palette).items() if name.isupper()}


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb`` as WCAG 2 defines it."""
    shares = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
@pytest.mark.parametrize("name", COLORS)
def test_each_colour_stands_out_from_light_and_dark(name, background):
    """At least 3 to 1, what WCAG asks of lines and symbols, from white and from near-black."""
    lighter, darker = sorted((luminance(COLORS[name]), luminance(background)), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_the_colours_of_one_picture_differ():
    """What is drawn together (losses, metric, lr and momentum of a run) has five colours."""
    together = (palette.LR, palette.MOMENTUM, palette.TRAIN_LOSS, palette.VAL_LOSS, palette.METRIC)
    assert len(set(together)) == 5
