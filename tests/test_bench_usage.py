"""The benchmarks' measure of a command's memory and CPU time."""

import sys

import numpy as np
import pytest

from tests.bench.usage import usage_of

MB = 1 << 20


def holding(megabytes: int) -> list[str]:
    return [sys.executable, "-S", "-c", f"held = b'x' * ({megabytes} << 20)"]


def test_a_child_s_peak_is_its_own() -> None:
    here = np.ones(300 * MB, dtype=np.uint8)  # what started it holds more than any of them
    large, small = usage_of(holding(150)), usage_of(holding(40))  # the larger one first: nothing of it is left
    assert here.nbytes == 300 * MB
    assert 150 < large.peak_mb < 190
    assert 40 < small.peak_mb < 80


def test_cpu_seconds_are_those_of_the_whole_tree() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    found = usage_of([sys.executable, "-S", "-c", child])
    asleep = usage_of([sys.executable, "-S", "-c", "import time; time.sleep(0.3)"])
    assert found.cpu_seconds > 0.3 > asleep.cpu_seconds
    assert asleep.seconds > 0.3


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(AssertionError, match="ended with 3"):
        usage_of([sys.executable, "-S", "-c", "raise SystemExit(3)"])
