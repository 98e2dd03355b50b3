"""Scores a model on tasks: `generate` gives answers, `scoring` records, `entries` what the board keeps.

evaluation = evaluate(find("scenes-base"), registry().expand(["scenes"]), ScenesJudge())
board.add(evaluation.entries, evaluation.samples)
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from harness.engine.config import EngineConfig
from harness.engine.stage_timer import StageTimer
from harness.evaluation.entries import Evaluation, Run, entries_of, samples_of
from harness.evaluation.eval_settings import EvalSettings, asking_of, facts_of_asking, judge_facts, judge_name
from harness.evaluation.generate import Generated, early_exit_hints, facts_of_data, generate, load_tasks
from harness.evaluation.guards import with_counts
from harness.evaluation.make_judge import check_judge
from harness.evaluation.protocol import as_asked, conversation_of, put
from harness.evaluation.scoring import Scored, score_answers, session_of
from harness.models.configuration import identity_of
from harness.models.provenance import environment, training_of
from harness.models.served_identity import identified
from harness.models.spec import ModelSpec
from leaderboards.board.entry import OTHER_DATA, Entry
from leaderboards.board.sample import Sample
from tasks.data_folder import stored
from tasks.hub_data import other_data
from tasks.judges.protocol import Judge
from tasks.judges.reasons import grouped
from tasks.judges.served_kind import asks_server
from tasks.registry import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.model import LM

DEFAULTS = EvalSettings()


def evaluate(
    spec: ModelSpec,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings = DEFAULTS,
    *,
    engine: EngineConfig | None = None,
    name: str | None = None,
    ledger: Path | None = None,
    load: "Callable[..., LM] | None" = None,
) -> Evaluation:
    """Score `spec` on `tasks`. ModelError, DataError, JudgeError, SettingError for a judge that can't rate one.

    `name` is the model's name on the board; `engine` holds settings of a local model; `ledger` is the file that keeps
    the replies of a served one; `load` makes the LM, as `harness.models.load.load` does.
    """
    from harness.models.load import load as load_model

    check_judge(judge, tasks, official_prompts=settings.official_prompts)
    spec, engine = as_asked(identified(spec, ledger), settings.protocol), engine or EngineConfig()
    started, timer = time.monotonic(), StageTimer()
    loaded = _load_questions(tasks, spec, settings, engine)
    hints = partial(early_exit_hints, names=set(loaded), full_answers=settings.full_answers)
    lm = (load or load_model)(spec, _for_lm(engine), hints=hints, ledger=ledger)
    with nullcontext() if hasattr(lm, "clock") else timer("answers"):  # an LM in this process takes times itself
        system = conversation_of(settings.protocol, spec).system
        answers = generate(lm, loaded, limit=settings.limit, seed=settings.seed, system=system)
    of_lm: dict[str, str] = getattr(lm, "provenance", dict)()
    spent, counts = dict(getattr(getattr(lm, "clock", None), "seconds", {})), dict(getattr(lm, "counts", {}))
    del lm  # a judge that is served for this run needs the memory
    scored = {task.name: _score(task, answers[task.name], judge, settings, timer) for task in tasks}
    seconds, total = time.monotonic() - started, sum(map(len, answers.values()))
    run = Run(
        run=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}",
        model=name or spec.name,
        limit=settings.limit,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),  # the newest run of a name counts
        provenance=identity_of(spec) | of_lm | environment() | settings.facts() | _facts_of_engine(engine),
    )
    entries: list[Entry] = []
    samples: list[Sample] = []
    for task in tasks:
        result, cost = scored[task.name]
        facts = _facts_of_task(spec, task, judge, settings) | _missing_likelihoods(answers[task.name])
        facts |= facts_of_asking(task, spec, settings, engine)
        shown_judge = judge_name(task, judge, settings.official_prompts)
        share = round(seconds * len(result.failed) / total, 2)
        own = samples_of(result, answers[task.name], run.run)
        found = entries_of(result, run, judge=shown_judge, seconds=share, cost=cost, facts=facts)
        entries += with_counts(list(found), own)
        samples += own
    spent |= timer.seconds
    return Evaluation(
        entries=entries,
        samples=samples,
        shared=of_lm.get("shared", ""),
        seconds=spent | {"other": seconds - sum(spent.values())},
        counts=counts,
        may_pass=any(why is not None and why.may_pass for result, _ in scored.values() for why in result.lost),
    )


def _load_questions(
    tasks: Sequence[TaskSpec], spec: ModelSpec, settings: EvalSettings, engine: EngineConfig
) -> dict[str, Any]:
    """lm-eval's tasks, which ask in the protocol's words; a suffix of all tasks is left to the LM."""
    loaded = load_tasks(tasks, split=settings.split, data=settings.data, partial_data=settings.partial_data)
    for task in tasks:
        asking = asking_of(task, spec, settings, engine)
        put(loaded[task.name], asking if engine.suffixes else replace(asking, suffix=""))
    return loaded


def _for_lm(engine: EngineConfig) -> EngineConfig:
    """The settings of the LM, which puts no suffix where tasks have their own: these put that of all, too."""
    return replace(engine, suffix="") if engine.suffixes else engine


def _score(
    task: TaskSpec, given: Sequence[Generated], judge: Judge | None, settings: EvalSettings, timer: StageTimer
) -> tuple[Scored, float]:
    """The scored answers, and what the judge cost in US dollars."""
    docs, answers = [one.doc for one in given], [one.answer for one in given]
    session = session_of(judge, task, settings.official_prompts)
    paid = _money_paid(judge)
    with timer("judge") if task.judged else nullcontext():
        scored = score_answers(task, docs, answers, session, settings.judge_repeats)
    return scored, round(_money_paid(judge) - paid, 6)


def _money_paid(judge: Judge | None) -> float:
    """US dollars in this process, as far as prices are known."""
    return judge.client.paid if asks_server(judge) else 0.0


def _facts_of_engine(engine: EngineConfig | None) -> dict[str, str]:
    """The engine's provenance that the LM does not give itself."""
    recorded = (engine or EngineConfig()).recorded()
    return {name: text for name, text in recorded.items() if name == "model settings"}


def _missing_likelihoods(given: Sequence[Generated]) -> dict[str, str]:
    """Provenance: for how many answers the likelihoods of next tokens can't be had, and why."""
    missing = [why for one in given if (why := getattr(one.answer, "no_choices", ""))]
    return {"no next-token likelihoods": grouped(missing)} if missing else {}


def _facts_of_task(spec: ModelSpec, task: TaskSpec, judge: Judge | None, settings: EvalSettings) -> dict[str, str]:
    """Provenance: one task, its judge, and the model's training on the task's images."""
    facts = settings.facts_of_task(task) | judge_facts(task, judge) | training_of(spec, task.name)
    facts |= settings.calibration if task.judged else {}
    facts |= {OTHER_DATA: said} if (said := other_data(task.name)) else {}
    read_elsewhere = task.name in settings.data or stored(task.name)
    return facts if read_elsewhere else facts | facts_of_data(task)
