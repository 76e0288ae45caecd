"""Fashion-MNIST with LeNet: 70,000 pictures of clothes, the size and shape of MNIST, and harder."""

from __future__ import annotations

from functools import partial

from lrfind.workloads.images import Source
from lrfind.workloads.lenet import lenet

make = partial(lenet, Source("fashion-mnist", "FashionMNIST", mean=0.2860, sd=0.3530))
"""Return the workload; arguments and errors as for ``lenet``."""
