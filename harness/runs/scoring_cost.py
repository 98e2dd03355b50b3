"""What the scoring of a run's checkpoints will take, told before it starts: questions, judge calls, hours, dollars.

    cost = cost_of_scoring(tasks, judge, settings, rate_of("llava-1.5-7b", tasks, [board]))
    log.info(cost.words(planned_scoring(recipe.training, steps)))

Hours are by a rate that was measured: of the base in this run, else of the same model on this machine on another board.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from harness.datasets.pool import facts_of
from harness.evaluation.benchmark_data import LOADER, is_cached
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.find_boards import boards_in
from harness.evaluation.generate import documents_drawn, load_tasks
from harness.evaluation.judge_cost import GUESSED_PROMPT, JudgePlan, guess, plan, supposed_answers
from harness.models.provenance import environment
from harness.models.spec import ModelSpec
from harness.runs.scoring_queue import Scoring
from harness.runs.watched_share import WatchedShare
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks.data_folder import stored
from tasks.judges.protocol import Judge
from tasks.judges.served_kind import asks_server
from tasks.registry import TaskSpec
from tasks.task_yaml import load_yaml
from trainers.config.training import Training
from trainers.training.checkpoints import QuietPeriod, find_complete_checkpoints, saved_at, scored_at
from trainers.vlfeedback.decode_plan import FILLED, SERVED_AT_ONCE, SERVED_SECONDS, STEP, STEP_PER_BILLION

N = TypeVar("N", int, float)

HOUR: Final = 3600
RUNS: Final = "runs"
ASSUMED: Final = "assumed: "
"""How words about a rate begin that was not measured."""
AT_ONCE: Final = f"{ASSUMED}{SERVED_AT_ONCE} calls at once, {SERVED_SECONDS:g} s each"
GUESSED: Final = f"its data are not here yet: {GUESSED_PROMPT} tokens a question assumed"
DEFAULT_TOKENS: Final = 256
"""Of an answer at most, where a task says nothing: lm-eval's."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds that a question has taken, by task."""

    seconds: Mapping[str, float]
    of: str
    """What was measured, in words."""


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """What one model takes on one task."""

    questions: int | None
    """None: not known before its data are read."""
    seconds: float | None
    """None: not measured yet."""
    calls: int | None = 0
    """Of the judge; None: not known before its data are read."""
    counted: bool = True
    """Whether that is all calls, and not one a question, which is the least."""
    dollars: float | None = 0.0
    """None: not known."""
    judging: JudgePlan | None = None
    """The same in more words, where a judge is asked that is paid for."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Which checkpoints are scored."""

    count: int | None
    """None: not known before the pairs are read."""
    how: str

    def of_seeds(self, count: int) -> "Planned":
        """The same for each of so many trainings."""
        all_of_them = None if self.count is None else self.count * count
        return Planned(count=all_of_them, how=f"{self.how}, for each of {count} seeds")


@dataclass(frozen=True, kw_only=True)
class ScoringCost:
    """What the scoring of one checkpoint takes."""

    tasks: Mapping[str, TaskCost]
    measured: str = ""
    """What the seconds were measured of."""

    def words(self, planned: Planned) -> str:
        """For a person, before the scoring starts."""
        times = planned.count
        questions, calls = self.questions, self.calls
        each = "questions not counted yet" if questions is None else f"{questions:,} questions"
        least = "" if self._is_counted else "at least "
        if calls is None:
            each += ", judge calls not counted yet"
        else:
            each += f", {least}{calls:,} judge calls" if calls else ", no judge calls"
        return f"{planned.how}; each takes {each}; in all: {self._time(times)}, {self._money(times, calls != 0)}"

    @property
    def _is_counted(self) -> bool:
        return all(task.counted for task in self.tasks.values())

    @property
    def questions(self) -> int | None:
        """Of all tasks."""
        return add([task.questions for task in self.tasks.values()])

    @property
    def calls(self) -> int | None:
        """Of the judge, of all tasks."""
        return add([task.calls for task in self.tasks.values()])

    @property
    def dollars(self) -> float | None:
        """Of all tasks."""
        return add([task.dollars for task in self.tasks.values()])

    @property
    def seconds(self) -> float | None:
        """Of all tasks."""
        return add([task.seconds for task in self.tasks.values()])

    @property
    def rate_words(self) -> str:
        """What the seconds are computed from."""
        return self.measured if self.measured.startswith(ASSUMED) else f"measured on {self.measured}"

    def _time(self, times: int | None) -> str:
        seconds = self.seconds
        if seconds is None:
            return "hours not measured yet"
        told = f"{in_hours(seconds)} for each" if times is None else in_hours(seconds * times)
        return f"{told} ({self.rate_words})"

    def _money(self, times: int | None, is_paid: bool) -> str:
        dollars = self.dollars
        if dollars is None:
            counted = all(task.calls is not None for task in self.tasks.values())
            why = "--judge-price IN,OUT tells them" if counted else "its data are not read yet"
            return f"dollars not known ({why})"
        if not is_paid and not dollars:
            return "no money for a judge"
        told = f"${dollars:,.2f} for each" if times is None else f"${dollars * times:,.2f}"
        guessed = "" if self._is_counted else f" ({GUESSED})"
        return f"{told} for the judge, at list prices{guessed}"


def planned_scoring(training: Training, steps: int | None, *, control: bool = False) -> Planned:
    """How many checkpoints of a training of so many steps (None: not known yet) are scored, with the control's last."""
    more, and_control = int(control), " and the control's last one" if control else ""
    if steps is None:
        count = training.score_checkpoints or (training.checkpoints if training.save_steps is None else None)
        if count is not None:
            at_most = "at most " if training.save_steps is not None else ""
            return Planned(count=count + more, how=f"{at_most}{_checkpoints(count)} scored{and_control}")
        every = f"one each {training.save_steps} steps, as many as the pairs give"
        return Planned(count=None, how=f"every checkpoint is scored{and_control}, {every}")
    saved, scored = len(saved_at(steps, training)), len(scored_at(steps, training))
    of = f" of {saved} that are saved (score_checkpoints = {training.score_checkpoints})" if scored < saved else ""
    return Planned(count=scored + more, how=f"{_checkpoints(scored, of)} scored{and_control}")


def rate_of(
    model: str, tasks: Sequence[TaskSpec], boards: Iterable[Board], *, device: str | None = None
) -> Rate | None:
    """The rate at which a model was scored on these tasks, by the newest run of each on the first board that has all;
    `device`: of runs on this one only. None: not measured."""
    for board in boards:
        known = [entry for entry in board.entries() if entry.model == model and _is_measured(entry, device)]
        seconds = {entry.task: entry.seconds / entry.samples for entry in known}
        if all(task.name in seconds for task in tasks):
            return Rate(seconds=seconds, of=f"{model}, {board.folder}")
    return None


def assumed_rate(spec: ModelSpec, tasks: Sequence[TaskSpec]) -> Rate | None:
    """The rate of a model that was not scored here, by its size and the most tokens that answers may have; None where
    its size is not known."""
    facts = facts_of(spec)
    if facts.served:
        each = SERVED_SECONDS / SERVED_AT_ONCE
        return Rate(seconds=dict.fromkeys((task.name for task in tasks), each), of=AT_ONCE)
    if not facts.parameters:
        return None
    step = (STEP + STEP_PER_BILLION * facts.parameters / 1e9) * FILLED / facts.rows_at_once
    seconds = {task.name: step * _most_tokens(task) for task in tasks}
    of = f"{ASSUMED}a data-centre GPU, {facts.rows_at_once} rows at once, answers of half their limit"
    return Rate(seconds=seconds, of=of)


def _most_tokens(task: TaskSpec) -> int:
    found = load_yaml(task.path).get("generation_kwargs") or {}
    return int(found.get("max_gen_toks", DEFAULT_TOKENS))


def rate_here(model: str, tasks: Sequence[TaskSpec], out: Path) -> Rate | None:
    """The rate of a model that this machine has scored before: in the run's own folder, else on any board below
    runs/."""
    boards = [board for folder in (out, Path(RUNS)) for board in boards_in(folder)]
    if not any(entry.model == model for board in boards for entry in board.entries()):
        return None  # without asking which devices there are, which takes seconds
    return rate_of(model, tasks, boards, device=environment()["device"])


def _is_measured(entry: Entry, device: str | None) -> bool:
    is_there = entry.headline and entry.samples > 0 and entry.seconds > 0
    return is_there and (device is None or entry.provenance.get("device") == device)


def cost_of_scoring(
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    rate: Rate | None,
    *,
    read: bool = False,
    missing: Collection[str] = (),
) -> ScoringCost:
    """What one model takes; data of the hub are not read unless a run has just read them (`read`), but counted as their
    task says, as those are of tasks whose data are `missing`."""
    found = {
        task.name: _cost_of_task(task, judge, settings, rate, read=None if task.name in missing else read)
        for task in tasks
    }
    return ScoringCost(tasks=found, measured="" if rate is None else rate.of)


def cost_of_model(
    spec: ModelSpec,
    tasks: Sequence[TaskSpec],
    judge: Judge | None,
    settings: EvalSettings,
    out: Path,
    *,
    missing: Collection[str] = (),
) -> ScoringCost:
    """What a model takes that is to be scored here: its time as measured, else by its size."""
    rate = rate_here(spec.name, tasks, out) or assumed_rate(spec, tasks)
    return cost_of_scoring(tasks, judge, settings, rate, missing=missing)


def scoring_words(scoring: Scoring, folder: Path, count: int | None = None) -> str:
    """What it takes a watcher to score the checkpoints of a training, or so many of them."""
    cost, planned = cost_of_waiting(scoring, folder, count)
    return cost.words(planned)


def cost_of_waiting(
    scoring: Scoring, folder: Path, count: int | None = None, *, missing: Collection[str] = ()
) -> tuple[ScoringCost, Planned]:
    """What one checkpoint takes a watcher, and which ones of a training it is to score, or so many of them: all where
    the folder says how many there will be, else those that are there so far."""
    share = WatchedShare(folder, count)
    complete = find_complete_checkpoints(folder, QuietPeriod(0))[0] if folder.is_dir() else []
    found, planned = share.of(complete), share.planned(complete)
    done = {entry.model for entry in scoring.board.entries()}
    waiting = [one for one in found if scoring.name_of(one.path) not in done]
    rates = (rate_of(model, scoring.tasks, [scoring.board]) for model in sorted(done))
    rate = next((rate for rate in rates if rate is not None), None)
    cost = cost_of_scoring(scoring.tasks, scoring.judge, scoring.settings, rate, missing=missing)
    how = f"{_checkpoints(len(waiting))} there to be scored"
    if planned is None:
        more = ", and all that are written while this watches"
        return cost, Planned(count=len(waiting) or None, how=how + more)
    left = len(planned) - len(found) + len(waiting)
    return cost, Planned(count=left, how=f"{how}, {left} of {len(planned)} in all (score_checkpoints)")


def _cost_of_task(
    task: TaskSpec, judge: Judge | None, settings: EvalSettings, rate: Rate | None, *, read: bool | None
) -> TaskCost:
    """`read`: whether the data were just read; None: they can't be."""
    asks = task.judged and asks_server(judge)
    is_here = read or task.data == "embedded" or (settings.data.get(task.name) or stored(task.name)) is not None
    is_here = (is_here or (asks and task.dataset == LOADER and is_cached(task))) and read is not None
    docs = None
    if is_here and (asks or task.rows is None or task.name in settings.data):
        loaded = load_tasks([task], split=settings.split, data=settings.data, partial_data=settings.partial_data)
        docs = documents_drawn(loaded[task.name], settings.limit, settings.seed)
    questions = task.rows if docs is None else len(docs)
    if questions is not None and settings.limit is not None:
        questions = min(questions, settings.limit)
    seconds = None if rate is None or questions is None else rate.seconds[task.name] * questions
    if not asks or not asks_server(judge):
        return TaskCost(questions=questions, seconds=seconds)
    if docs is None:
        about = None if questions is None else guess(judge, task.name, questions * settings.judge_repeats)
        known = {"calls": None, "dollars": None} if about is None else {"calls": about.calls, "dollars": about.price}
        return TaskCost(questions=questions, seconds=seconds, counted=False, judging=about, **known)
    found = plan(judge, task, docs, supposed_answers(len(docs)), settings.judge_repeats)
    return TaskCost(questions=questions, seconds=seconds, calls=found.calls, dollars=found.price, judging=found)


def _checkpoints(count: int, of: str = "") -> str:
    return f"{count} checkpoint{of} is" if count == 1 else f"{count} checkpoints{of} are"


def add(numbers: Sequence[N | None], times: Sequence[int] | None = None) -> N | None:
    """The sum, of each number so many times; None where one is not known."""
    counts = times or [1] * len(numbers)
    known: list[Any] = [number * count for number, count in zip(numbers, counts, strict=True) if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def in_hours(seconds: float) -> str:
    """For a person: hours, or minutes of less than one."""
    return f"{seconds / HOUR:,.1f} hours" if seconds >= HOUR else f"{seconds / 60:,.1f} minutes"
