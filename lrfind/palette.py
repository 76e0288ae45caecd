"""The colour of each quantity, the same in every picture of both packages.

Hues are those of Okabe and Ito, which colour-blind readers can tell apart; of their eight these are the ones that stand
out by at least 3 to 1 (WCAG) from white and from ``#111`` alike, with greys to fill up. Text and axes are left to
matplotlib's style, light or dark. No picture tells lines apart by colour alone: line style or marker differ too.

Source:
    Okabe and Ito, «Color Universal Design» (2008), https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

LR = "#0072B2"  # blue
MOMENTUM = "#808080"  # grey
TRAIN_LOSS = "#D55E00"  # vermillion
VAL_LOSS = "#CC79A7"  # reddish purple
METRIC = "#009E73"  # bluish green
PICK = LR  # a pick is a learning rate, and so is its range, drawn pale
RANGE = LR
RAW = MOMENTUM  # what was measured, behind its smoothed curve
