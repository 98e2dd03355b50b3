"""What a metric of a benchmark must be like, so that intervals and tests can be taken of it."""

import numpy as np
import pytest

from tasks.registry import registry


def test_no_benchmarks_value_rounds_on_the_way() -> None:
    """Intervals and tests take slopes, which a rounded value has not."""
    rng, looked = np.random.default_rng(1), 0
    for name, task in registry().tasks.items():
        for metric in (registry().metric(name, one) for one in task.all_metrics):
            try:
                size = len(metric.counts([]))
            except (ValueError, ZeroDivisionError, IndexError):
                continue
            sums = np.sort(rng.uniform(50, 90, (20, size)), axis=1)
            turned = rng.normal(0, 1, size)
            with np.errstate(all="ignore"):
                steps = [(metric.value(sums + step * turned) - metric.value(sums)) / step for step in (1e-3, 1e-4)]
            known = np.isfinite(steps).all(axis=0)
            looked += bool(known.any())
            assert steps[0][known] == pytest.approx(steps[1][known], rel=0.05, abs=1e-3), (name, metric)
    assert looked > 50
