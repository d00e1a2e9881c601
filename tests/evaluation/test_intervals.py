"""Intervals of shares, against their definition."""

import numpy as np
import pytest

from pipeline.evaluation.intervals import wilson


def test_wilson_against_the_quadratic():
    """The bounds p solve (k/n - p)^2 = z^2 p (1 - p) / n."""
    z2 = 1.959963984540054**2
    for n in (1, 2, 7, 60):
        for k in range(n + 1):
            roots = np.roots([1 + z2 / n, -(2 * k / n + z2 / n), (k / n) ** 2])
            assert wilson(k, n) == pytest.approx((min(roots), max(roots)), abs=1e-9)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)  # as tabulated
    assert all(np.isnan(wilson(0, 0)))
