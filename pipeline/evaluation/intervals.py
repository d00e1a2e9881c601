"""Confidence intervals."""

import numpy as np

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); NaN where n is 0."""
    if n == 0:
        return np.nan, np.nan
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    # at the ends the bound is exactly 0 or 1, which rounding would miss
    return (0.0 if successes == 0 else float(centre - half)), (1.0 if successes == n else float(centre + half))
