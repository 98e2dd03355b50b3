"""Logs of yes/no questions for the tests of comparisons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from leaderboards.board.sample import Sample
from leaderboards.comparison.format_loss import NEXT_TOKEN
from leaderboards.comparison.paired_logs import Loader
from leaderboards.statistics.resampling import CountsMetric
from tasks.metric import mean_of, ratio_of

ACCURACY = mean_of("correct", scale=100)


RATING = mean_of("rating")


COVERAGE = ratio_of("covered", "objects", scale=100)


TASK = "pope"


def metric(task: str, name: str) -> CountsMetric | None:
    return {"accuracy": ACCURACY, "score": RATING, "coverage": COVERAGE, NEXT_TOKEN: ACCURACY}.get(name)


def closed(
    said: Sequence[bool | None],
    knew: Sequence[bool] | None = None,
    *,
    run: str = "run",
    task: str = TASK,
    words: int = 1,
    cut: bool = False,
) -> list[Sample]:
    """Answers to yes/no questions: right, wrong, or None = failed; every other truth is yes. Wrong ones of many words
    can't be read."""
    samples = []
    for index, right in enumerate(said):
        truth = ("yes", "no")[index % 2]
        readable = words == 1 or right
        predicted = truth if right else ({"yes": "no", "no": "yes"}[truth] if readable else "other")
        record = {
            "image": f"i{index}",
            "category": ("a", "b")[index % 4 // 2],
            "predicted": predicted,
            "truth": truth,
            "correct": bool(right),
        }
        records: dict[str, dict[str, Any]] = {"accuracy": record | ({} if readable else {"unparsed": True})}
        if knew is not None:
            records[NEXT_TOKEN] = {"image": f"i{index}", "correct": knew[index], "truth": truth, "logprobs": {}}
        samples.append(
            Sample(
                run=run,
                task=task,
                id=str(index),
                image=f"i{index}",
                prompt=f"Question {index}?",
                answer=None if right is None else " ".join([predicted] * words),
                records={} if right is None else records,
                reply=None,
                cut=cut,
            )
        )
    return samples


def by_id(samples: Sequence[Sample]) -> dict[str, Sample]:
    return {sample.id: sample for sample in samples}


def loader(**runs: Sequence[Sample] | None) -> Loader:
    """Runs by name; None = the run's log is lost; any other kept none."""

    def load(run: str) -> Sequence[Sample]:
        found = runs.get(run, [])
        if found is None:
            raise FileNotFoundError(run)
        return found

    return load


def share(percent: int, of: int = 200) -> list[bool]:
    """So many right answers, spread over the questions in the same places whatever the share."""
    order = np.random.default_rng(0).permutation(of)
    return [bool(place < of * percent // 100) for place in order]
