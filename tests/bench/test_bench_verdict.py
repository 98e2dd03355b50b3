"""How long a verdict takes: 10,000 resamples and as many permutations of 9,000 answers, from the records on."""

from typing import Any

import numpy as np


def answers(skill: float) -> list[dict[str, Any]]:
    """POPE's 500 images, with six questions in each of its three splits."""
    from tasks.benchmarks.pope import SPLITS

    rng = np.random.default_rng(round(100 * skill))
    hardness = np.random.default_rng(0).normal(0, 0.1, 500)
    records = []
    for image, hard in enumerate(hardness):
        for split in SPLITS:
            for question, right in enumerate((rng.random(6) < skill - hard).tolist()):
                truth = ("yes", "no")[question % 2]
                predicted = truth if right else ("no", "yes")[question % 2]
                records.append(
                    {"image": str(image), "category": split, "predicted": predicted, "truth": truth, "correct": right}
                )
    return records


def test_bench_bootstrap(benchmark: Any, figures: dict[str, float]) -> None:
    from leaderboards.statistics.verdict import compare
    from tasks.benchmarks.pope import mean_f1

    base, other = answers(0.80), answers(0.84)
    verdict = benchmark.pedantic(
        lambda: compare(base, other, mean_f1, higher_is_better=True, resamples=10_000),
        rounds=3,
        iterations=1,
        warmup_rounds=1,
    )
    assert (verdict.outcome, verdict.images, len(base)) == ("better", 500, 9000)
    figures["bootstrap.seconds"] = benchmark.stats["median"]
