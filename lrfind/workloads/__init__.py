"""Ready workloads on real data, which both commands know by name. Their data libraries are the extra ``examples``.

>>> sorted(WORKLOADS)
['digits', 'fashion-mnist', 'mnist']
"""

from __future__ import annotations

from collections.abc import Callable

from lrfind.workload import Workload
from lrfind.workloads import digits, fashion_mnist, mnist

__all__ = ["WORKLOADS"]

WORKLOADS: dict[str, Callable[..., Workload]] = {
    "digits": digits.make,
    "mnist": mnist.make,
    "fashion-mnist": fashion_mnist.make,
}
"""Name to the function that makes it. All arguments are keywords with defaults; they differ a little per workload."""
