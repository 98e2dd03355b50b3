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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from harness.evaluation.generate import load_tasks
from harness.evaluation.scoring import LENGTH
from harness.models.spec import ModelSpec
from support.errors import ModelError
from support.markdown import MISSING, cell, number, table
from tasks.answer import FailedAnswer
from tasks.judges.protocol import Judge, judging, use_judge
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
    load: "Callable[[ModelSpec], Any] | None" = None,
) -> Parity:
    """Answer the first `samples` documents of `task` both ways. ModelError, MissingWeights, DataError.

    `judge` rates answers of judged tasks; `engine` holds settings of SharedImageLM; `load` makes the LM where it shall
    be another. Decoding is greedy, whatever the task asks for: two samples would differ by chance.
    """
    if spec.backend != "transformers":
        raise ModelError(f"{spec.name}: is behind a server, which has no exact way to hold it against")
    if load is None:
        from harness.models.load import load as load_vlm

        load = partial(load_vlm, engine=engine, hints=_hints)
    loaded = load_tasks([task], data=data, partial_data=partial_data)[0][task.name]
    lm = load(spec)
    requests = _requests(loaded, lm, samples)
    with use_judge(judge) if judge is not None else nullcontext(), _kept_apart(lm):
        started = time.monotonic()
        shared = _answers(lm, requests)
        between = time.monotonic()
        with exactly(lm):
            exact = _answers(lm, requests)
        ended = time.monotonic()
        ours, theirs = (_records(loaded, requests, answers) for answers in (shared, exact))
        distances = list(_distances(lm, requests))
    for answer, one, other in zip(shared, ours, theirs, strict=True):
        if getattr(answer, "cut", False):  # its length is not that of the whole answer
            one.pop(LENGTH, None)
            other.pop(LENGTH, None)
    found = [
        Difference(
            id=str(request.doc.get("id", request.doc_id)),
            prompt=str(request.args[0]),
            shared=_shown(shared[at]),
            exact=_shown(exact[at]),
            read_differently=differently,
        )
        for at, request in enumerate(requests)
        if (differently := _read_from(ours[at]) != _read_from(theirs[at])) or not _same(shared[at], exact[at])
    ]
    differ = sum(not _same(one, other) for one, other in zip(shared, exact, strict=True))
    return Parity(
        model=spec.name,
        task=task.name,
        samples=len(requests),
        shares=lm.sharing(),
        dtype=str(lm.hf.dtype).removeprefix("torch."),
        device=str(lm.device),
        differ=differ,
        share=differ / len(requests),
        cut=sum(getattr(answer, "cut", False) for answer in shared),
        read_differently=sum(one.read_differently for one in found),
        failed=(
            sum(isinstance(one, FailedAnswer) for one in shared),
            sum(isinstance(one, FailedAnswer) for one in exact),
        ),
        scores=tuple(_scores(task, ours, theirs)),
        logits=max((absolute for absolute, _ in distances), default=None),
        logits_deviations=max((relative for _, relative in distances), default=None),
        seconds_shared=round(between - started, 3),
        seconds_exact=round(ended - between, 3),
        examples=tuple(sorted(found, key=lambda one: not one.read_differently)[:EXAMPLES]),
    )


@contextmanager
def exactly(lm: Any) -> Iterator[None]:
    """Inside, a SharedImageLM answers the exact way, on the same weights."""
    before, lm.exact = lm.exact, True
    try:
        yield
    finally:
        lm.exact = before


def first_logits(lm: Any, requests: Sequence[Any]) -> "Iterator[tuple[Tensor, Tensor]]":
    """Logits [vocabulary] of the first new token, shared and exact, of each distinct question that our own decoding
    answers.

    Nothing where the LM shares no more than whole answers: then both ways are one.
    """
    import torch

    if not lm.shares_images:
        return
    jobs = [job for job in lm._jobs(requests) if lm._decodes(job)]
    jobs.sort(
        key=lambda job: job.digests
    )  # questions about one image into one batch, so that beginnings are shared as they were
    for start in range(0, len(jobs), lm.batch_size):
        with torch.inference_mode():
            ready, _ = lm._encoded(jobs[start : start + lm.batch_size])
            for state, rows in lm._states(ready):
                for row, job in enumerate(rows):
                    given = {"logits_to_keep": 1} if "logits_to_keep" in lm.runner.takes else {}
                    plain = lm.hf(**lm._processed(job.context, job.images), **given).logits[0, -1].float()
                    yield state.logits[row].float(), plain


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


def _requests(loaded: Any, lm: Any, samples: int) -> list[Any]:
    """A task's requests as lm-eval's `simple_evaluate` builds them, decoded greedily."""
    if loaded.get_config("num_fewshot") is None:
        loaded.set_config(key="num_fewshot", value=0)
    loaded.set_fewshot_seed(seed=0)
    loaded.build_all_requests(
        limit=samples, apply_chat_template=True, chat_template=lm.apply_chat_template, tokenizer_name=lm.tokenizer_name
    )
    requests: list[Any] = loaded.instances
    for request in requests:
        context, settings, *rest = request.args
        greedy = {name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")}
        request.arguments = (context, greedy | {"do_sample": False}, *rest)
    return requests


@contextmanager
def _kept_apart(lm: Any) -> Iterator[None]:
    """Inside, no answer is taken from earlier runs, or kept for later ones; features are computed anew."""
    store, lm.store = lm.store, None
    lm.forget()
    try:
        yield
    finally:
        lm.store = store


def _answers(lm: Any, requests: Sequence[Any]) -> list[str]:
    answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
    return answers


def _records(loaded: Any, requests: Sequence[Any], answers: Sequence[str]) -> list[dict[str, Any]]:
    """What the task counts for each answer; nothing for one that failed."""
    for request, answer in zip(requests, answers, strict=True):
        request.resps, request.filtered_resps = [answer], {}
    with judging(loaded.config.task):
        loaded.apply_filters()
    filtered = [next(iter(request.filtered_resps.values())) for request in requests]
    return [
        {} if isinstance(answer, FailedAnswer) else dict(loaded.process_results(request.doc, [given]))
        for request, answer, given in zip(requests, answers, filtered, strict=True)
    ]


def _read_from(records: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in record.items() if key != WORDS} if isinstance(record, Mapping) else record
        for name, record in records.items()
        if name != LENGTH
    }


def _same(ours: str, theirs: str) -> bool:
    if isinstance(ours, FailedAnswer) or isinstance(theirs, FailedAnswer):
        return isinstance(ours, FailedAnswer) and isinstance(theirs, FailedAnswer)
    return theirs.startswith(ours) if getattr(ours, "cut", False) else ours == theirs


def _shown(answer: str) -> str:
    return f"failed: {answer.error}" if isinstance(answer, FailedAnswer) else answer


def _scores(task: TaskSpec, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Iterator[Both]:
    for name, facts in task.metrics.items():
        both = [[one[name] for one in records if name in one] for records in (ours, theirs)]
        if not any(both):  # what is not counted for an answer's words
            continue
        metric = registry().metric(task.name, name)
        shared, exact = (None if not records or (value := metric(records)) != value else value for records in both)
        difference = None if shared is None or exact is None else shared - exact
        yield Both(metric=name, unit=facts.unit, shared=shared, exact=exact, difference=difference)


def _distances(lm: Any, requests: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """Of each prompt: the largest difference of a logit, and the same in standard deviations."""
    for ours, plain in first_logits(lm, requests):
        largest = float((ours - plain).abs().max())
        yield largest, largest / float(plain.std())
