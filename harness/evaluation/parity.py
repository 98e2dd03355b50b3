"""A model's two ways to answer, held against each other: shared, as `harness eval` runs it, and exact, a question at a
time.

found = parity(find("llava-1.5-7b"), registry().task("pope"), samples=200)
print(render(found))

Shared is SharedImageLM as `load` makes it: images encoded once, beginnings of prompts computed once, batches, answers
cut where nothing more can change what is read. Exact is transformers' own generation, nothing shared. Weights are
loaded once and used both ways.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.evaluation.generate import load_tasks, requests_of
from harness.evaluation.scoring import LENGTH, score_answers, session_of, value_of
from harness.models.spec import ModelSpec
from support.errors import ModelError
from support.markdown import MISSING, cell, number, table
from tasks.answer import FailedAnswer
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec, registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.engine.config import EngineConfig

EXAMPLES: Final = 5
"""Answers that differ which are shown."""

WORDS: Final = "words"
"""Where records keep an answer's length: it is no part of what is read from an answer."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A document whose two answers are not the same."""

    id: str
    prompt: str
    shared: str
    exact: str
    read_differently: bool
    """Whether the task's official rule reads them differently."""


@dataclass(frozen=True, kw_only=True)
class Both:
    """One metric by both ways."""

    metric: str
    unit: str
    shared: float | None
    """None: not defined on these documents."""
    exact: float | None
    difference: float | None
    """Shared less exact."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the two ways are apart on one task."""

    model: str
    task: str
    samples: int
    shares: str
    """What questions share."""
    dtype: str
    device: str
    differ: int
    """Answers that are not the same; one that was cut is the same as what it is the beginning of."""
    share: float
    """The same, of all samples."""
    cut: int
    """Answers that were cut."""
    read_differently: int
    """Answers of which the task's official rule makes other records."""
    failed: tuple[int, int]
    """Answers that failed, shared and exact."""
    scores: tuple[Both, ...]
    logits: float | None
    """Largest difference of a logit of the first new token; None where the shared way computes none of its own."""
    logits_deviations: float | None
    """The largest difference, in standard deviations of that prompt's exact logits."""
    seconds_shared: float
    seconds_exact: float
    examples: tuple[Difference, ...]
    """The first few, those that are read differently before others."""


def parity(
    spec: ModelSpec,
    task: TaskSpec,
    samples: int = 200,
    *,
    judge: Judge | None = None,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
    engine: "EngineConfig | None" = None,
    load: "Callable[..., Any] | None" = None,
) -> Parity:
    """Answer the first `samples` documents of `task` both ways. ModelError, MissingWeights, DataError.

    `judge` rates answers of judged tasks; `engine` holds settings of SharedImageLM; `load` makes the LM where it shall
    be another. Decoding is greedy, whatever the task asks for: two samples would differ by chance.
    """
    if spec.backend != "transformers":
        raise ModelError(f"{spec.name}: is behind a server, which has no exact way to hold it against")
    if load is None:
        from harness.models.load import load as load_vlm

        load = load_vlm
    loaded = load_tasks([task], data=data, partial_data=partial_data)[task.name]
    lm = load(spec, engine, hints=_hints)
    requests = _greedy_requests(loaded, lm, samples)
    with _without_caches(lm):
        started = time.monotonic()
        shared: list[str] = lm.generate_until(requests, disable_tqdm=True)
        between = time.monotonic()
        with exactly(lm):
            exact: list[str] = lm.generate_until(requests, disable_tqdm=True)
        ended = time.monotonic()
        distances = list(_logit_differences(lm, requests))
    ours, theirs = (_records_of(task, requests, answers, shared, judge) for answers in (shared, exact))
    differences = list(_differences(requests, (shared, exact), (ours, theirs)))
    differ = sum(not _is_same(one, other) for one, other in zip(shared, exact, strict=True))
    return Parity(
        model=spec.name,
        task=task.name,
        samples=len(requests),
        shares=str(lm.sharing),
        dtype=str(lm.hf.dtype).removeprefix("torch."),
        device=str(lm.device),
        differ=differ,
        share=differ / len(requests),
        cut=sum(map(_is_cut, shared)),
        read_differently=sum(one.read_differently for one in differences),
        failed=(
            sum(isinstance(one, FailedAnswer) for one in shared),
            sum(isinstance(one, FailedAnswer) for one in exact),
        ),
        scores=tuple(_scores(task, ours, theirs)),
        logits=max((absolute for absolute, _ in distances), default=None),
        logits_deviations=max((relative for _, relative in distances), default=None),
        seconds_shared=round(between - started, 3),
        seconds_exact=round(ended - between, 3),
        examples=tuple(sorted(differences, key=lambda one: not one.read_differently)[:EXAMPLES]),
    )


@contextmanager
def exactly(lm: Any) -> Iterator[None]:
    """Inside, a SharedImageLM answers the exact way, on the same weights."""
    before, lm.sharing.exact = lm.sharing.exact, True
    try:
        yield
    finally:
        lm.sharing.exact = before


def first_logits(lm: Any, requests: Sequence[Any]) -> "Iterator[tuple[Tensor, Tensor]]":
    """Logits [vocabulary] of the first new token, shared and exact, of each distinct question that our own decoding
    answers.

    Nothing where the LM shares no more than whole answers: then both ways are one.
    """
    import torch

    from harness.engine.equivalence_check import first_logits as compare_logits

    if not lm.sharing.shares_images:
        return
    jobs = [job for job in lm.jobs_of(requests) if lm.rules.can_decode(job)]
    jobs.sort(
        key=lambda job: job.digests
    )  # questions about one image into one batch, so that beginnings are shared as they were
    for start in range(0, len(jobs), lm.scheduler.batch_size):
        with torch.inference_mode():
            yield from compare_logits(jobs[start : start + lm.scheduler.batch_size], lm.scheduler)


def render(found: Parity) -> str:
    """For people."""
    rows = [
        [
            cell(f"{one.metric} {one.unit}".strip()),
            number(one.shared, one.unit),
            number(one.exact, one.unit),
            number(one.difference, one.unit, signed=True),
        ]
        for one in found.scores
    ]
    faster = f"{found.seconds_exact / found.seconds_shared:.1f} times faster" if found.seconds_shared else MISSING
    rows += [
        ["answers that differ", "", "", f"{found.differ} ({100 * found.share:.1f} %)"],
        ["answers read differently", "", "", str(found.read_differently)],
        ["answers that failed", str(found.failed[0]), str(found.failed[1]), str(found.failed[0] - found.failed[1])],
        ["answers cut", str(found.cut), "0", ""],
        ["first token's logits, at most", "", "", MISSING if found.logits is None else f"{found.logits:.2g}"],
        [
            "the same, in deviations",
            "",
            "",
            MISSING if found.logits_deviations is None else f"{found.logits_deviations:.2g}",
        ],
        ["seconds", f"{found.seconds_shared:.1f}", f"{found.seconds_exact:.1f}", faster],
    ]
    head = f"{cell(found.model)} on {cell(found.task)}, {found.samples} samples, {found.dtype} on {found.device}"
    text = f"{head}; shared: {cell(found.shares)}\n\n{table(['', 'shared', 'exact', 'difference'], rows)}"
    if found.examples:
        shown = [
            [cell(one.id), cell(one.shared), cell(one.exact), "yes" if one.read_differently else ""]
            for one in found.examples
        ]
        text += f"\n\n{table(['answers that differ', 'shared', 'exact', 'read differently'], shown)}"
    return text


def _hints(request: Any) -> Any:
    """What `harness eval` lets the engine leave out, but for likelihoods, which change no answer."""
    from harness.engine.jobs import Hints

    return Hints(decided=registry().decided(request.task_name, request.doc))


def _greedy_requests(loaded: Any, lm: Any, samples: int) -> list[Any]:
    """A task's requests, decoded greedily."""
    requests = requests_of(loaded, lm, samples)
    for request in requests:
        context, settings, *rest = request.args
        greedy = {name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")}
        request.arguments = (context, greedy | {"do_sample": False}, *rest)
    return requests


@contextmanager
def _without_caches(lm: Any) -> Iterator[None]:
    """Inside, no answer is taken from earlier runs, or kept for later ones; features are computed anew."""
    cache, lm.cache = lm.cache, None
    lm.forget()
    try:
        yield
    finally:
        lm.cache = cache


def _records_of(
    task: TaskSpec, requests: Sequence[Any], answers: Sequence[str], shared: Sequence[str], judge: Judge | None
) -> list[dict[str, Any]]:
    """What the task counts for each answer; not its length where the shared one was cut."""
    scored = score_answers(task, [request.doc for request in requests], answers, session_of(judge, task))
    return [
        {name: record for name, record in one.records.items() if name != LENGTH or not _is_cut(other)}
        for one, other in zip(scored.rounds[0], shared, strict=True)
    ]


def _is_cut(answer: str) -> bool:
    return bool(getattr(answer, "cut", False))


def _differences(
    requests: Sequence[Any], answers: Sequence[Sequence[str]], records: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[Difference]:
    """The documents whose shared and exact answers are not the same, or are not read as the same."""
    for request, (shared, exact), (ours, theirs) in zip(
        requests, zip(*answers, strict=True), zip(*records, strict=True), strict=True
    ):
        differently = _without_lengths(ours) != _without_lengths(theirs)
        if differently or not _is_same(shared, exact):
            yield Difference(
                id=str(request.doc.get("id", request.doc_id)),
                prompt=str(request.args[0]),
                shared=_show(shared),
                exact=_show(exact),
                read_differently=differently,
            )


def _without_lengths(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in record.items() if key != WORDS}
        for name, record in records.items()
        if name != LENGTH
    }


def _is_same(shared: str, exact: str) -> bool:
    failed = [isinstance(answer, FailedAnswer) for answer in (shared, exact)]
    if any(failed):
        return all(failed)
    return exact.startswith(shared) if _is_cut(shared) else shared == exact


def _show(answer: str) -> str:
    return f"failed: {answer.error}" if isinstance(answer, FailedAnswer) else answer


def _scores(task: TaskSpec, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Iterator[Both]:
    for name, facts in task.metrics.items():
        both = [[one[name] for one in records if name in one] for records in (ours, theirs)]
        if not any(both):  # what is not counted for an answer's words
            continue
        shared, exact = (value_of(registry().metric(task.name, name), records) for records in both)
        difference = None if shared is None or exact is None else shared - exact
        yield Both(metric=name, unit=facts.unit, shared=shared, exact=exact, difference=difference)


def _logit_differences(lm: Any, requests: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """Of each prompt: the largest difference of a logit, and the same in standard deviations."""
    for shared, exact in first_logits(lm, requests):
        largest = float((shared - exact).abs().max())
        yield largest, largest / float(exact.std())
