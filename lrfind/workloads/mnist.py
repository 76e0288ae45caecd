"""MNIST with LeNet: 70,000 handwritten digits of 28 x 28 pixels."""

from __future__ import annotations

from functools import partial

from lrfind.workloads.images import Source
from lrfind.workloads.lenet import lenet

make = partial(lenet, Source("mnist", "MNIST", mean=0.1307, sd=0.3081))
"""Return the workload; arguments and errors as for ``lenet``."""
