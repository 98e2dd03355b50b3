"""`harness parity`: shared decoding, as `harness eval` runs it, or another engine, compared with exact decoding, one
question at a time.

print(render(parity(find("llava-1.5-7b"), registry().task("pope"), samples=200)))

Shared decoding is SharedImageLM as `load` makes it: each image is encoded once, common prompt prefixes are computed
once, requests run in batches, and generation stops once the task's parser needs no further tokens. Exact decoding is
transformers' own generation. Both use the same loaded weights. Where a server of vLLM computes the shared answers, the
weights are loaded for exact decoding after it has ended.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.engine.config import EngineConfig
from harness.evaluation.generate import load_tasks, requests_of
from harness.evaluation.protocol import OFFICIAL, as_asked, asked_by, put
from harness.evaluation.scoring import LENGTH, score_answers, session_of, value_of
from harness.models.load import load as load_model
from harness.models.server_facts import VERSION
from harness.models.spec import ModelSpec
from harness.serving.engine_host import EngineHost
from support.errors import ModelError
from support.markdown import MISSING, cell, number, table
from tasks.answer import FailedAnswer
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec, registry

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES: Final = 5
"""How many differing answers are shown."""

WORDS: Final = "words"
"""The field of a record that holds the answer's length; two answers that differ in it only are read the same."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A document whose shared and exact answers differ."""

    id: str
    prompt: str
    shared: str
    exact: str
    read_differently: bool
    """True if the task's official rule makes different records of them."""


@dataclass(frozen=True, kw_only=True)
class MetricPair:
    """The value of one metric by shared and by exact decoding; None where it is not defined on these documents."""

    metric: str
    unit: str
    shared: float | None
    exact: float | None
    difference: float | None
    """Shared minus exact."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far shared and exact decoding differ on one task."""

    model: str
    task: str
    samples: int
    engine: str
    """What computed the shared answers: our own engine, or another one with its version."""
    shares: str
    """What questions share, in words."""
    dtype: str
    device: str
    differ: int
    """Answers that differ; an answer that was stopped early equals one that begins with it."""
    share: float
    """`differ` / `samples`."""
    cut: int
    """Shared answers that were stopped early."""
    read_differently: int
    """Answers of which the task's official rule makes different records."""
    failed: tuple[int, int]
    """Failed answers, shared and exact."""
    scores: tuple[MetricPair, ...]
    logits: float | None
    """Largest difference of a logit of the first new token; None where shared decoding uses transformers' own."""
    logits_deviations: float | None
    """The largest difference, in standard deviations of that prompt's exact logits."""
    seconds_shared: float
    seconds_exact: float
    examples: tuple[Difference, ...]
    """At most `EXAMPLES`, those that are read differently first."""


def parity(
    spec: ModelSpec,
    task: TaskSpec,
    samples: int = 200,
    *,
    judge: Judge | None = None,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
    engine: EngineConfig | None = None,
    load: "Callable[..., Any] | None" = None,
) -> Parity:
    """Answer the first `samples` documents of `task` by shared and by exact decoding. ModelError, MissingWeights,
    DataError.

    Questions are asked by the official protocol. `judge` rates answers of judged tasks; `load` makes the LM, as
    `harness.models.load.load` does. Decoding is greedy, whatever the task asks for: two random draws would differ by
    chance.
    """
    if spec.backend != "transformers":
        raise ModelError(f"{spec.name}: runs behind a server, where exact decoding is not available")
    loaded, spec = load_tasks([task], data=data, partial_data=partial_data)[task.name], as_asked(spec, OFFICIAL)
    put(loaded, asking := asked_by(OFFICIAL, task, spec))
    with EngineHost() as host:
        engine = host.choose(engine or EngineConfig(), spec)
        lm = (load or (host.load if engine.is_served else load_model))(spec, engine, hints=_make_hints)
        facts, shares = lm.provenance(), str(lm.sharing)
        requests = _greedy_requests(loaded, lm, samples, asking.system)
        shared, seconds_shared = _answer(lm, requests)
        if engine.is_served:
            host.drop()
            lm = host.load(spec, EngineConfig(dtype=engine.dtype), hints=_make_hints)
            requests, shares = _greedy_requests(loaded, lm, samples, asking.system), facts["shared"]
        with exact_decoding(lm):
            exact, seconds_exact = _answer(lm, requests)
        logit_differences = [] if engine.is_served else list(_compare_first_logits(lm, requests))
        device = str(lm.device)
    ours, theirs = (_make_records(task, requests, answers, shared, judge) for answers in (shared, exact))
    differences = list(_find_differences(requests, (shared, exact), (ours, theirs)))
    differ = sum(not _is_same(one, other) for one, other in zip(shared, exact, strict=True))
    failed = [sum(isinstance(one, FailedAnswer) for one in answers) for answers in (shared, exact)]
    return Parity(
        model=spec.name,
        task=task.name,
        samples=len(requests),
        engine=f"{facts.get(VERSION, engine.engine)}" if engine.is_served else "own",
        shares=shares,
        dtype=facts["dtype"],
        device=device,
        differ=differ,
        share=differ / len(requests),
        cut=sum(map(_is_cut, shared)),
        read_differently=sum(one.read_differently for one in differences),
        failed=(failed[0], failed[1]),
        scores=tuple(_compare_metrics(task, ours, theirs)),
        logits=max((absolute for absolute, _ in logit_differences), default=None),
        logits_deviations=max((relative for _, relative in logit_differences), default=None),
        seconds_shared=seconds_shared,
        seconds_exact=seconds_exact,
        examples=tuple(sorted(differences, key=lambda one: not one.read_differently)[:EXAMPLES]),
    )


def _answer(lm: Any, requests: list[Any]) -> tuple[list[str], float]:
    """The answers, none of them kept ones, and the seconds that they took."""
    with _without_caches(lm):
        started = time.monotonic()
        answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
        return answers, round(time.monotonic() - started, 3)


@contextmanager
def exact_decoding(lm: Any) -> Iterator[None]:
    """Inside, a SharedImageLM shares nothing between questions."""
    before, lm.sharing.exact = lm.sharing.exact, True
    try:
        yield
    finally:
        lm.sharing.exact = before


def render(found: Parity) -> str:
    """Two markdown tables: scores and counts, and some of the answers that differ."""
    rows = []
    for one in found.scores:
        values = [number(one.shared, one.unit), number(one.exact, one.unit)]
        rows.append([cell(f"{one.metric} {one.unit}".strip()), *values, number(one.difference, one.unit, signed=True)])
    faster = f"{found.seconds_exact / found.seconds_shared:.1f} times faster" if found.seconds_shared else MISSING
    logits, deviations = (
        MISSING if value is None else f"{value:.2g}" for value in (found.logits, found.logits_deviations)
    )
    rows += [
        ["answers that differ", "", "", f"{found.differ} ({100 * found.share:.1f} %)"],
        ["answers read differently", "", "", str(found.read_differently)],
        ["answers that failed", *map(str, found.failed), str(found.failed[0] - found.failed[1])],
        ["answers stopped early", str(found.cut), "0", ""],
        ["largest difference of a first token's logit", "", "", logits],
        ["the same, in standard deviations", "", "", deviations],
        ["seconds", f"{found.seconds_shared:.1f}", f"{found.seconds_exact:.1f}", faster],
    ]
    head = f"{cell(found.model)} on {cell(found.task)}, {found.samples} samples, {found.dtype} on {found.device}"
    head += "" if found.engine == "own" else f"; engine: {cell(found.engine)}"
    text = f"{head}; shared: {cell(found.shares)}\n\n{table(['', 'shared', 'exact', 'difference'], rows)}"
    if found.examples:
        shown = [
            [*map(cell, (one.id, one.shared, one.exact)), "yes" if one.read_differently else ""]
            for one in found.examples
        ]
        text += f"\n\n{table(['answers that differ', 'shared', 'exact', 'read differently'], shown)}"
    return text


def _make_hints(request: Any) -> Any:
    """The hints of `harness eval`, except for first-token likelihoods, which change no answer."""
    from harness.engine.jobs import Hints

    return Hints(decided=registry().decided(request.task_name, request.doc))


def _greedy_requests(loaded: Any, lm: Any, samples: int, system: str) -> list[Any]:
    requests = requests_of(loaded, lm, samples, system)
    for request in requests:
        context, settings, *rest = request.args
        greedy = {name: value for name, value in settings.items() if name not in ("temperature", "top_p", "top_k")}
        request.arguments = (context, greedy | {"do_sample": False}, *rest)
    return requests


@contextmanager
def _without_caches(lm: Any) -> Iterator[None]:
    """Inside, the response cache is not used, and image features are computed again."""
    cache, lm.cache = lm.cache, None
    lm.forget()
    try:
        yield
    finally:
        lm.cache = cache


def _make_records(
    task: TaskSpec, requests: Sequence[Any], answers: Sequence[str], shared: Sequence[str], judge: Judge | None
) -> list[dict[str, Any]]:
    """The task's records of each answer, without its length where the shared answer was stopped early."""
    scored = score_answers(task, [request.doc for request in requests], answers, session_of(judge, task))
    return [
        {name: record for name, record in one.records.items() if name != LENGTH or not _is_cut(other)}
        for one, other in zip(scored.rounds[0], shared, strict=True)
    ]


def _is_cut(answer: str) -> bool:
    return bool(getattr(answer, "cut", False))


def _find_differences(
    requests: Sequence[Any], answers: Sequence[Sequence[str]], records: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[Difference]:
    for request, (shared, exact), (ours, theirs) in zip(
        requests, zip(*answers, strict=True), zip(*records, strict=True), strict=True
    ):
        read_differently = _remove_lengths(ours) != _remove_lengths(theirs)
        if read_differently or not _is_same(shared, exact):
            yield Difference(
                id=str(request.doc.get("id", request.doc_id)),
                prompt=str(request.args[0]),
                shared=_as_text(shared),
                exact=_as_text(exact),
                read_differently=read_differently,
            )


def _remove_lengths(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


def _as_text(answer: str) -> str:
    return f"failed: {answer.error}" if isinstance(answer, FailedAnswer) else answer


def _compare_metrics(
    task: TaskSpec, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> Iterator[MetricPair]:
    for name, facts in task.metrics.items():
        records = [[one[name] for one in side if name in one] for side in (ours, theirs)]
        if any(records):  # metrics of likelihoods have no records here
            shared, exact = (value_of(registry().metric(task.name, name), side) for side in records)
            difference = None if shared is None or exact is None else shared - exact
            yield MetricPair(metric=name, unit=facts.unit, shared=shared, exact=exact, difference=difference)


def _compare_first_logits(lm: Any, requests: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """For each distinct prompt that the engine decodes itself: the largest difference of a logit of the first new
    token, and the same in standard deviations of the exact logits."""
    import torch

    from harness.engine.equivalence_check import first_logits

    if not lm.sharing.shares_images:  # then both ways are the same
        return
    jobs = [job for job in lm.jobs_of(requests) if lm.rules.can_decode(job)]
    jobs.sort(key=lambda job: job.digests)  # questions about one image share a batch, as they do in `generate_until`
    for start in range(0, len(jobs), lm.scheduler.batch_size):
        with torch.inference_mode():
            for shared, exact in first_logits(jobs[start : start + lm.scheduler.batch_size], lm.scheduler):
                largest = float((shared - exact).abs().max())
                yield largest, largest / float(exact.std())
