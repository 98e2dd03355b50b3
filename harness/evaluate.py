"""Walk 1: a model and tasks in, entries and sample logs out, through lm-eval's `simple_evaluate`. The only reader of lm-eval's dicts.

evaluation = evaluate(find("scenes-base"), registry().expand(["scenes"]), judge=ExactJudge())
board.add(evaluation.entries, evaluation.samples)
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from harness.judging import asked_again, over_repeats, value_of
from harness.models.clock import Clock
from harness.models.images import image_digest
from harness.models.load import quiet
from harness.models.spec import ModelSpec
from harness.provenance import digest_of_files, digest_of_model, environment, training_of
from harness.score import count
from leaderboards.board import Board
from leaderboards.entry import Entry
from leaderboards.sample import Asking, Sample
from leaderboards.verdict import CountsMetric, RecordsError, interval, interval_repeats
from tasks import wording
from tasks.answer import FailedAnswer
from tasks.decided import next_token_record
from tasks.judge import Judge, judging, use_judge
from tasks.openai_judge import OpenAIJudge
from tasks.registry import FOLDER, NEXT_TOKEN, TaskSpec, registry

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    from harness.models.resident import Resident

T = TypeVar("T")

SAID_ELSEWHERE = ("batch_size", "workers", "suffix", "features", "exact", "answers", "hints", "kept_bytes")
"""Settings of the engine that change no answer, or that entries tell of by another name."""

REPEATS = "judge repeats"
"""In provenance: the score of each asking of the judge, with commas between."""

LENGTH = "answer_length"
"""The metric that an answer which was cut has no part in."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's numbers and what they were computed from."""

    entries: list[Entry]
    samples: list[Sample]
    shared: str = ""
    """What questions shared, in words."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where time went: images, vision, prefill, decode, judge, other."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of questions: asked, answered by the model, from the store, cut, ..."""

    @property
    def lost(self) -> float:
        """Share of samples that failed or stayed unscored."""
        counted = {entry.task: entry for entry in self.entries}.values()
        total = sum(entry.samples for entry in counted)
        return sum(entry.failed + entry.unscored for entry in counted) / total if total else 0.0


def evaluate(
    spec: ModelSpec,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    split: str | None = None,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
    official_prompts: bool = False,
    judge_repeats: int = 1,
    calibration: Mapping[str, str] | None = None,
    load: "Callable[[ModelSpec], LM] | None" = None,
    ledger: Path | None = None,
    engine: Mapping[str, Any] | None = None,
    resident: "Resident | None" = None,
    full_answers: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score `spec` on `tasks`; `name` is what the board shows, `split` another draw of generated test data than the official one.

    `data` gives the path of local data by task, of which rows may be missing with `partial_data`; `official_prompts` asks the judge in the
    authors' own words; with `judge_repeats` it is asked so often, and a score is the mean; `calibration` is put on entries of judged
    tasks. `load` makes the LM where it shall be another than ours; `ledger` keeps what a served model said; `progress` hears (answered,
    asked). `engine` holds settings of our own LM; `resident` may have the model's base in memory; `full_answers` lets answers go on after
    nothing more can change their score.
    """
    from lm_eval import evaluator, simple_evaluate

    # It would encode every image as PNG twice to hash it for a log that is not written. Its switch is read from the environment when
    # lm_eval is first imported, by whomever.
    evaluator.LMEVAL_HASHMM = False
    evaluator.get_git_commit_hash = lambda: None  # of the current folder, and git complains where that is no repository

    if load is None:
        from harness.models.load import load as load_alone

        make = load_alone if resident is None else resident.load
        hints = partial(_hints, names={task.name for task in tasks}, full_answers=full_answers)
        load = partial(make, progress=progress, ledger=ledger, engine={"hints": hints, **(engine or {})})
    started = time.monotonic()
    clock = Clock()
    paid: dict[str, float] = {}
    loaded, manager = load_tasks(tasks, split=split, data=data, partial_data=partial_data)
    for name_of_task, task in loaded.items():
        task.set_config("process_results", _unless_failed(task.config.process_results))
        task.apply_filters = _booked(name_of_task, task.apply_filters, clock, judge, paid)
    lm = load(spec)
    with use_judge(judge) if judge is not None else nullcontext(), wording.official_prompts() if official_prompts else nullcontext():
        results = simple_evaluate(
            model=lm,
            tasks=list(loaded.values()),
            task_manager=manager,
            limit=limit,
            apply_chat_template=True,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        assert results is not None  # it is None on ranks other than 0
        again: dict[str, list[list[Asking]]] = {}
        for judged in [task for task in tasks if task.judged]:
            docs, answers = _docs_and_answers(results["samples"][judged.name])
            if judge is not None:
                ask = partial(asked_again, judge, judged, docs, answers, judge_repeats)
                again[judged.name] = _booked(judged.name, ask, clock, judge, paid)()
    told: dict[str, str] = getattr(lm, "provenance", dict)()
    provenance = digest_of_model(spec) | told | environment() | {"seed": str(seed)} | ({"split": split} if split else {})
    if words := settings_in_words(engine or {}):
        provenance["model settings"] = words
    if full_answers:
        provenance["full answers"] = "yes"
    if partial_data:
        provenance["rows"] = "partial"
    revisions = {task.name: sha for task in tasks if task.name not in (data or {}) and (sha := revision_of(task))}
    seconds = time.monotonic() - started
    spent = {**getattr(getattr(lm, "clock", None), "seconds", {}), **clock.seconds}
    spent["other"] = seconds - sum(spent.values())
    evaluation = _read(
        results["samples"],
        tasks,
        run=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}",
        model=name or spec.name,
        judge=judge,
        official_prompts=official_prompts,
        limit=limit,
        seconds=seconds,
        provenance=provenance,
        again=again,
        paid=paid,
        digests={task.name: _image_digests(loaded[task.name], results["samples"][task.name]) for task in tasks},
        of_task=lambda task: (
            _of_task(task, data, official_prompts)
            | _of_judge(task, judge)
            | training_of(spec, task.name)
            | (dict(calibration or {}) if task.judged else {})
            | ({"revision": revisions[task.name]} if task.name in revisions else {})
        ),
    )
    return replace(evaluation, shared=told.get("shared", ""), seconds=spent, counts=dict(getattr(lm, "counts", {})))


def settings_in_words(engine: Mapping[str, Any]) -> str:
    """How the model was loaded otherwise than usual, for its entries."""
    return ", ".join(f"{name}={value}" for name, value in sorted(engine.items()) if name not in SAID_ELSEWHERE)


def revision_of(task: TaskSpec) -> str | None:
    """The commit of the hub data that was just loaded, where the task's YAML names a branch; None where there is nothing to tell."""
    if task.data == "embedded" or re.fullmatch("[0-9a-f]{40}", task.revision):
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(task.data, revision=task.revision, timeout=10).sha
    except (OSError, ValueError):  # no hub: the data came from its cache, and which commit that was is not known
        return None


def load_tasks(
    tasks: Sequence[TaskSpec], *, split: str | None = None, data: Mapping[str, str] | None = None, partial_data: bool = False
) -> "tuple[dict[str, Any], TaskManager]":
    """lm-eval's tasks by name, with their documents; `DataError` where these can't be had."""
    from lm_eval.tasks import TaskManager

    quiet()
    metadata = {"paths": dict(data or {}), "partial_data": partial_data} | ({"split": split} if split else {})
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
    return manager.load([task.name for task in tasks])["tasks"], manager


def documents(task: TaskSpec, count: int, data: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The first documents of a task as a model will see them: id, prompt, image, what is asked for."""
    loaded = load_tasks([task], data=data, partial_data=True)[0][task.name]
    shown = []
    for doc in list(loaded.eval_docs)[:count]:
        pictures = loaded.doc_to_image(doc)
        sizes = [f"{picture.width} x {picture.height} {picture.mode}" for picture in pictures]
        asked = {"id": str(doc.get("id", "")), "image": str(doc.get("image", doc.get("scene", ""))), "pixels": ", ".join(sizes)}
        shown.append(asked | {"prompt": str(loaded.doc_to_text(doc)), "target": str(loaded.doc_to_target(doc))})
    return shown


def judge_name(task: TaskSpec, judge: Judge | None, official_prompts: bool) -> str | None:
    """Whose numbers these are: a judge that is asked otherwise is another one, and never shares a column."""
    if not task.judged or judge is None:
        return None
    ways = (["official prompts"] if official_prompts else []) + (["structured"] if getattr(judge, "structured", False) else [])
    return f"{judge.model} ({', '.join(ways)})" if ways else judge.model


def _of_judge(task: TaskSpec, judge: Judge | None) -> dict[str, str]:
    """That a judge is not the one the published scores come from, and what the server called it."""
    if not task.judged or judge is None:
        return {}
    other = {"official judge": task.official_judge} if task.official_judge and judge.model != task.official_judge else {}
    served = sorted(getattr(judge, "served", ()))
    if isinstance(judge, OpenAIJudge) and (judge.detail != "auto" or judge.image_side is not None):
        other["judge image"] = f"detail {judge.detail}, longest side {judge.image_side or 'as it is'}"
    return other | ({"judge served": ", ".join(served)} if served and served != [judge.model] else {})


def _of_task(task: TaskSpec, data: Mapping[str, str] | None, official_prompts: bool) -> dict[str, str]:
    """What a task's scores depend on beside the model: its files, where its documents come from, whose words its judge was asked in."""
    facts = {"task": digest_of_files(task.sources), "data": (data or {}).get(task.name, f"{task.data}@{task.revision}")}
    return facts | ({"prompts": "official" if official_prompts else "own"} if task.judged else {})


def on_board(
    board: Board,
    spec: ModelSpec,
    name: str,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    limit: int | None,
    data: Mapping[str, str] | None = None,
    official_prompts: bool = False,
    asked_so: Mapping[str, str] | None = None,
    judge_repeats: int = 1,
) -> bool:
    """Whether every task stands there for these very weights, task versions, data and judge, asked in this way, and so often at least."""
    digests = digest_of_model(spec)
    wanted_askings = judge_repeats if isinstance(judge, OpenAIJudge) else 1  # another judge says the same whenever it is asked

    def key(task: str, version: str, judge: str | None, facts: Mapping[str, str]) -> tuple[str | None, ...]:
        return task, version, judge, *(facts.get(name) for name in ("task", "data", "prompts"))

    there = {
        key(entry.task, entry.version, entry.judge, entry.provenance)
        for entry in board.standing(partial=True)
        if entry.model == name and entry.limit == limit and entry.failed + entry.unscored == 0
        if all(entry.provenance.get(key) == digest for key, digest in digests.items())
        if all(entry.provenance.get(key, "") == value for key, value in (asked_so or {}).items())
        if entry.judge is None or askings_of(entry) >= wanted_askings
    }
    wanted = {
        key(task.name, task.version, judge_name(task, judge, official_prompts), _of_task(task, data, official_prompts)) for task in tasks
    }
    return wanted <= there


def askings_of(entry: Entry) -> int:
    """How often the judge was asked about each answer."""
    return len(entry.provenance.get(REPEATS, "").split(", "))


def _hints(request: Any, names: set[str], full_answers: bool) -> Any:
    """What a task lets the engine do with its answer to one document."""
    from harness.models.vlm import Hints

    name, doc = request.task_name, request.doc
    if name not in names:
        return Hints()
    wanted = registry().next_token(name, doc)
    decided = None if full_answers else registry().decided(name, doc)
    return Hints(decided=decided, choices=wanted[0] if wanted else (), rule=_rule(name) if decided is not None else "")


@cache
def _rule(task: str) -> str:
    return f"{task} {digest_of_files(registry().task(task).sources)}"


def _docs_and_answers(logged: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Any]]:
    return [line["doc"] for line in logged], [line["resps"][0][0] for line in logged]


def _booked(task: str, asking: Callable[[], T], clock: Clock, judge: Judge | None, paid: dict[str, float]) -> Callable[[], T]:
    """What asks the judge (a task's filters do), with the task's name on what that costs; `paid` gets US dollars by task."""

    def booked() -> T:
        before = getattr(judge, "paid", 0.0)
        try:
            with judging(task), clock("judge"):
                return asking()
        finally:
            paid[task] = paid.get(task, 0.0) + getattr(judge, "paid", 0.0) - before

    return booked


def _unless_failed(process: Callable[..., Any]) -> Callable[..., Any]:
    """A task's `process_results` that leaves a failed generation out of every mean, and a cut answer out of that of lengths."""

    def process_results(doc: dict[str, Any], results: list[Any]) -> Any:
        if isinstance(results[0], FailedAnswer):
            return {}
        records = process(doc, results)
        return {name: record for name, record in records.items() if name != LENGTH} if getattr(results[0], "cut", False) else records

    return process_results


def _read(
    logged: Mapping[str, Sequence[Mapping[str, Any]]],
    tasks: Sequence[TaskSpec],
    *,
    run: str,
    model: str,
    judge: Judge | None,
    official_prompts: bool,
    limit: int | None,
    seconds: float,
    provenance: Mapping[str, str],
    of_task: Callable[[TaskSpec], Mapping[str, str]],
    again: Mapping[str, Sequence[Sequence[Asking]]],
    paid: Mapping[str, float],
    digests: Mapping[str, Sequence[str | None]],
) -> Evaluation:
    """lm-eval's sample log as entries and samples."""
    entries: list[Entry] = []
    samples: list[Sample] = []
    created = datetime.now(UTC).isoformat(timespec="microseconds")  # the newest run of a name is the one that stands
    total = sum(len(logged[task.name]) for task in tasks)
    for task in tasks:
        further = again.get(task.name, ())
        own = [
            replace(_sample(line, task, run, digest), repeats=tuple(asking[place] for asking in further))
            for place, (line, digest) in enumerate(zip(logged[task.name], digests[task.name], strict=True))
        ]
        samples += own
        counts = count([sample.records for sample in own], [sample.answer is None for sample in own])
        counts = replace(counts, unscored=sum(sample.answer is not None and _lacks_a_rating(sample) for sample in own))
        for metric, facts in task.all_metrics.items():
            records = [sample.records[metric] for sample in own if metric in sample.records]
            if metric == NEXT_TOKEN and not records:
                continue  # a server that tells no likelihoods
            computed = registry().metric(task.name, metric)
            value = value_of(task.name, metric, records)
            facts_of_repeats = {}
            others = [_rated(asking, metric) for asking in further] if metric in task.metrics else []
            if others:
                value, every = over_repeats(value, [value_of(task.name, metric, found) for found in others])
                facts_of_repeats = {REPEATS: every}
            low, high = _interval([records, *others], computed)
            entries.append(
                Entry(
                    run=run,
                    model=model,
                    task=task.name,
                    version=task.version,
                    metric=metric,
                    value=value,
                    unit=facts.unit,
                    higher_is_better=facts.higher_is_better,
                    headline=metric == task.headline,
                    **vars(counts),
                    low=low,
                    high=high,
                    limit=limit,
                    judge=judge_name(task, judge, official_prompts),
                    seconds=round(seconds * len(own) / total, 2),
                    cost=round(paid.get(task.name, 0.0), 6),
                    created=created,
                    provenance={**provenance, **of_task(task), **facts_of_repeats},
                )
            )
    return Evaluation(entries=entries, samples=samples)


def _rated(asking: Sequence[Asking], metric: str) -> list[Mapping[str, Any]]:
    return [one.records[metric] for one in asking if metric in one.records]


def _lacks_a_rating(sample: Sample) -> bool:
    """Whether an asking gave it none, or one that could not be read."""
    every = (sample.records, *(asking.records for asking in sample.repeats))
    return any(not records or any(record.get("unrated") for record in records.values()) for records in every)


def _interval(every: Sequence[Sequence[Mapping[str, Any]]], computed: CountsMetric) -> tuple[float, float] | tuple[None, None]:
    """Over all askings of the judge; there is none where they have no rated image in common."""
    try:
        return interval_repeats(every, computed) if len(every) > 1 else interval(every[0], computed)
    except RecordsError:
        return None, None


def _image_digests(task: Any, logged: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Of the picture each document shows, as it was shown; None where there is none or it can't be read."""

    def of(doc: Mapping[str, Any]) -> str | None:
        try:
            pictures = task.doc_to_image(doc) or []
            return "+".join(image_digest(picture) for picture in pictures)[:200] or None
        except OSError:
            return None

    return [of(line["doc"]) for line in logged]


def _sample(line: Mapping[str, Any], task: TaskSpec, run: str, digest: str | None) -> Sample:
    answer, filtered = line["resps"][0][0], line["filtered_resps"][0]
    records = {metric: line[metric] for metric in task.metrics if metric in line}
    choices, wanted = getattr(answer, "choices", {}), registry().next_token(task.name, line["doc"])
    if choices and wanted is not None:
        first: Mapping[str, Any] = next(iter(records.values()), {})
        grouped = {key: first[key] for key in ("image", "cluster") if key in first}
        records[NEXT_TOKEN] = next_token_record(str(grouped.get("image", "")), choices, wanted[1]) | grouped
    image = next((str(record["image"]) for record in records.values()), str(line["doc"].get("image", line["doc"].get("scene", ""))))
    return Sample(
        run=run,
        task=task.name,
        id=str(line["doc"].get("id", line["doc_id"])),
        image=image,
        prompt=str(line["arguments"][0][0]),
        answer=None if isinstance(answer, FailedAnswer) else str(answer),
        records=records,
        reply=filtered["text"] if task.judged and isinstance(filtered, dict) else None,
        cut=bool(getattr(answer, "cut", False)),
        image_digest=digest,
    )
