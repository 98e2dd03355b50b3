"""Records are computed anew from a log as they were when the answers were scored, for every benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.evaluation.entries import Evaluation
from harness.evaluation.rescore import document_of, rescore
from leaderboards.board.sample import Sample, from_parquet, to_parquet
from leaderboards.gate.recomputed import LogCheck
from tasks.answer import Answer, FailedAnswer
from tasks.registry import registry
from tests.harness.test_benchmarks import BENCHMARKS, Praise, score_answers_of

REPLIES = (
    "Yes",
    "No, there is no dog.",
    "A dog beside a cat on the grass by a bus.",
    "B",
    "",
    "<think>A cat?</think>A",
)


def kept(evaluation: Evaluation) -> dict[str, Sample]:
    """The log as a board gives it back."""
    return {sample.id: sample for sample in from_parquet(to_parquet(evaluation.samples))}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_log_gives_what_was_scored(name: str, tmp_path: Path, answering: Callable[..., Any]) -> None:
    asked: list[str] = []

    def answer(prompt: str, pictures: list[Any]) -> str:
        asked.append(prompt)
        if len(asked) == 2:
            return FailedAnswer("out of memory")
        text = REPLIES[len(asked) % len(REPLIES)]
        choices = {"yes": -0.31, "no": -1.4} if len(asked) % 2 else {"A": -2.0, "B": -0.1, "C": -3.0, "D": -4.0}
        return text if "<" in text else Answer(text, cut=len(asked) == 3, limited=len(asked) == 4, choices=choices)

    evaluation = score_answers_of(answering(answer), name, Praise(), tmp_path)
    (headline,) = [entry for entry in evaluation.entries if entry.metric == registry().task(name).headline]
    log = kept(evaluation)
    assert all(sample.document for sample in log.values())
    check = LogCheck(rescore)
    check(headline, headline, log, log)
    assert not check.notes


@pytest.mark.parametrize("doc", ({"image": b"png"}, {"when": {1, 2}}))
def test_a_document_that_is_no_json_is_not_kept(doc: dict[str, Any]) -> None:
    assert document_of(doc) is None


def test_a_task_that_is_not_here_is_told(tmp_path: Path, answering: Callable[..., Any]) -> None:
    from dataclasses import replace

    evaluation = score_answers_of(answering(lambda *_: "Yes"), "mme", Praise(), tmp_path)
    entry = evaluation.entries[0]
    assert rescore(replace(entry, task="their_own"), kept(evaluation)) == "the task is not known here"
    other = replace(entry, provenance={**entry.provenance, "task": "0123456789abcdef"})
    assert str(rescore(other, kept(evaluation))).startswith(
        "they were made by other code of the task (0123456789abcdef,"
    )
    without = {name: replace(sample, document=None) for name, sample in kept(evaluation).items()}
    assert rescore(entry, without) == "it keeps no documents (logs of earlier versions don't)"
