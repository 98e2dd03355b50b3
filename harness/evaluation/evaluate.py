"""Walk 1: a model and tasks in, entries and sample logs out, through lm-eval's `simple_evaluate`. The only reader of
lm-eval's dicts.

evaluation = evaluate(find("scenes-base"), registry().expand(["scenes"]), judge=ExactJudge())
board.add(evaluation.entries, evaluation.samples)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from harness.engine.config import EngineConfig
from harness.engine.stage_timer import StageTimer
from harness.evaluation.entries import Evaluation, read
from harness.evaluation.eval_settings import judge_facts, task_facts
from harness.evaluation.generate import docs_and_answers, early_exit_hints, image_digests, load_tasks, revision_of
from harness.evaluation.scoring import asked_again, unless_failed
from harness.models.provenance import digest_of_model, environment, training_of
from harness.models.spec import ModelSpec
from leaderboards.board.sample import Asking
from tasks.judges import official_prompts as wording
from tasks.judges.protocol import Judge, judging, use_judge
from tasks.registry import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from harness.models.adapter_host import AdapterHost


T = TypeVar("T")


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
    engine: EngineConfig | None = None,
    resident: "AdapterHost | None" = None,
    full_answers: bool = False,
) -> Evaluation:
    """Score `spec` on `tasks`; `name` is what the board shows, `split` another draw of generated test data than the
    official one.

    `data` gives the path of local data by task, of which rows may be missing with `partial_data`; `official_prompts`
    asks the judge in the authors' own words; with `judge_repeats` it is asked so often, and a score is the mean;
    `calibration` is put on entries of judged tasks. `load` makes the LM where it shall be another than ours; `ledger`
    keeps what a served model said; `engine` holds settings of our own LM;
    `resident` may have the model's base in memory; `full_answers` lets answers go on after nothing more can change
    their score.
    """
    from lm_eval import evaluator, simple_evaluate

    # It would encode every image as PNG twice to hash it for a log that is not written. Its switch is read from the
    # environment when lm_eval is first imported, by whomever.
    evaluator.LMEVAL_HASHMM = False
    evaluator.get_git_commit_hash = lambda: None  # of the current folder, and git complains where that is no repository

    if load is None:
        from harness.models.load import load as load_alone

        make = load_alone if resident is None else resident.load
        hints = partial(early_exit_hints, names={task.name for task in tasks}, full_answers=full_answers)
        load = partial(make, engine=engine, hints=hints, ledger=ledger)
    started = time.monotonic()
    clock = StageTimer()
    paid: dict[str, float] = {}
    loaded, manager = load_tasks(tasks, split=split, data=data, partial_data=partial_data)
    for name_of_task, task in loaded.items():
        task.set_config("process_results", unless_failed(task.config.process_results))
        task.apply_filters = _booked(name_of_task, task.apply_filters, clock, judge, paid)
    lm = load(spec)
    with (
        use_judge(judge) if judge is not None else nullcontext(),
        wording.official_prompts() if official_prompts else nullcontext(),
    ):
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
            docs, answers = docs_and_answers(results["samples"][judged.name])
            if judge is not None:
                ask = partial(asked_again, judge, judged, docs, answers, judge_repeats)
                again[judged.name] = _booked(judged.name, ask, clock, judge, paid)()
    told: dict[str, str] = getattr(lm, "provenance", dict)()
    provenance = (
        digest_of_model(spec) | told | environment() | {"seed": str(seed)} | ({"split": split} if split else {})
    )
    if words := (engine or EngineConfig()).recorded().get("model settings"):
        provenance["model settings"] = words
    if full_answers:
        provenance["full answers"] = "yes"
    if partial_data:
        provenance["rows"] = "partial"
    revisions = {task.name: sha for task in tasks if task.name not in (data or {}) and (sha := revision_of(task))}
    seconds = time.monotonic() - started
    spent = {**getattr(getattr(lm, "clock", None), "seconds", {}), **clock.seconds}
    spent["other"] = seconds - sum(spent.values())
    evaluation = read(
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
        digests={task.name: image_digests(loaded[task.name], results["samples"][task.name]) for task in tasks},
        of_task=lambda task: (
            task_facts(task, data, official_prompts)
            | judge_facts(task, judge)
            | training_of(spec, task.name)
            | (dict(calibration or {}) if task.judged else {})
            | ({"revision": revisions[task.name]} if task.name in revisions else {})
        ),
    )
    return replace(evaluation, shared=told.get("shared", ""), seconds=spent, counts=dict(getattr(lm, "counts", {})))


def _booked(
    task: str, asking: Callable[[], T], clock: StageTimer, judge: Judge | None, paid: dict[str, float]
) -> Callable[[], T]:
    """What asks the judge (a task's filters do), with the task's name on what that costs; `paid` gets US dollars by
    task."""

    def booked() -> T:
        before = getattr(judge, "paid", 0.0)
        try:
            with judging(task), clock("judge"):
                return asking()
        finally:
            paid[task] = paid.get(task, 0.0) + getattr(judge, "paid", 0.0) - before

    return booked
