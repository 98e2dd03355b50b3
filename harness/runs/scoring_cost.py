"""What the scoring of a run's checkpoints will take, told before it starts: questions, judge calls, hours, dollars.

    cost = cost_of_scoring(tasks, judge, settings, rate_of("llava-1.5-7b", tasks, [board]))
    log.info(cost.words(planned_scoring(recipe.training, steps)))

Hours are by a rate that was measured: of the base in this run, else of the same model on this machine on another board.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.find_boards import boards_in
from harness.evaluation.generate import documents_drawn, load_tasks
from harness.evaluation.judge_cost import plan, supposed_answers
from harness.models.provenance import environment
from harness.runs.scoring_queue import Scoring
from harness.runs.watched_share import WatchedShare
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from tasks.data_folder import stored
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from trainers.config.training import Training
from trainers.training.checkpoints import QuietPeriod, find_complete_checkpoints, saved_at, scored_at

HOUR: Final = 3600
RUNS: Final = "runs"


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


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Which checkpoints are scored."""

    count: int | None
    """None: not known before the pairs are read."""
    how: str


@dataclass(frozen=True, kw_only=True)
class ScoringCost:
    """What the scoring of one checkpoint takes."""

    tasks: Mapping[str, TaskCost]
    measured: str = ""
    """What the seconds were measured of."""

    def words(self, planned: Planned) -> str:
        """For a person, before the scoring starts."""
        times = planned.count
        questions = _sum([task.questions for task in self.tasks.values()])
        each = "questions not counted yet" if questions is None else f"{questions:,} questions"
        calls = _sum([task.calls for task in self.tasks.values()])
        least = "" if self._is_counted else "at least "
        if calls is None:
            each += ", judge calls not counted yet"
        else:
            each += f", {least}{calls:,} judge calls" if calls else ", no judge calls"
        return f"{planned.how}; each takes {each}; in all: {self._time(times)}, {self._money(times, calls != 0)}"

    @property
    def _is_counted(self) -> bool:
        return all(task.counted for task in self.tasks.values())

    def _time(self, times: int | None) -> str:
        seconds = _sum([task.seconds for task in self.tasks.values()])
        if seconds is None:
            return "hours not measured yet"
        if times is None:
            return f"{_in_hours(seconds)} for each (measured on {self.measured})"
        return f"{_in_hours(seconds * times)} (measured on {self.measured})"

    def _money(self, times: int | None, is_paid: bool) -> str:
        dollars = _sum([task.dollars for task in self.tasks.values()])
        if dollars is None:
            why = "--judge-price IN,OUT tells them" if self._is_counted else "its data are not read yet"
            return f"dollars not known ({why})"
        if not is_paid and not dollars:
            return "no money for a judge"
        told = f"${dollars:,.2f} for each" if times is None else f"${dollars * times:,.2f}"
        return f"{told} for the judge, at list prices"


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
    tasks: Sequence[TaskSpec], judge: Judge | None, settings: EvalSettings, rate: Rate | None, *, read: bool = False
) -> ScoringCost:
    """What one model takes; data of the hub are not read unless a run has just read them (`read`), but counted as their
    task says."""
    found = {task.name: _cost_of_task(task, judge, settings, rate, read=read) for task in tasks}
    return ScoringCost(tasks=found, measured="" if rate is None else rate.of)


def scoring_words(scoring: Scoring, folder: Path, count: int | None = None) -> str:
    """What it takes a watcher to score the checkpoints of a training, or so many of them: all where the folder says how
    many there will be, else those that are there so far."""
    share = WatchedShare(folder, count)
    complete = find_complete_checkpoints(folder, QuietPeriod(0))[0]
    found, planned = share.of(complete), share.planned(complete)
    done = {entry.model for entry in scoring.board.entries()}
    waiting = [one for one in found if scoring.name_of(one.path) not in done]
    rates = (rate_of(model, scoring.tasks, [scoring.board]) for model in sorted(done))
    rate = next((rate for rate in rates if rate is not None), None)
    cost = cost_of_scoring(scoring.tasks, scoring.judge, scoring.settings, rate)
    how = f"{_checkpoints(len(waiting))} there to be scored"
    if planned is None:
        return cost.words(
            Planned(count=len(waiting) or None, how=f"{how}, and all that are written while this watches")
        )
    left = len(planned) - len(found) + len(waiting)
    return cost.words(Planned(count=left, how=f"{how}, {left} of {len(planned)} in all (score_checkpoints)"))


def _cost_of_task(
    task: TaskSpec, judge: Judge | None, settings: EvalSettings, rate: Rate | None, *, read: bool
) -> TaskCost:
    is_here = read or task.data == "embedded" or (settings.data.get(task.name) or stored(task.name)) is not None
    asks = task.judged and isinstance(judge, OpenAIJudge)
    docs = None
    if is_here and (asks or task.rows is None or task.name in settings.data):
        loaded = load_tasks([task], split=settings.split, data=settings.data, partial_data=settings.partial_data)
        docs = documents_drawn(loaded[task.name], settings.limit, settings.seed)
    questions = task.rows if docs is None else len(docs)
    if questions is not None and settings.limit is not None:
        questions = min(questions, settings.limit)
    seconds = None if rate is None or questions is None else rate.seconds[task.name] * questions
    if not asks or not isinstance(judge, OpenAIJudge):
        return TaskCost(questions=questions, seconds=seconds)
    if docs is None:
        return TaskCost(questions=questions, seconds=seconds, calls=questions, counted=False, dollars=None)
    found = plan(judge, task, docs, supposed_answers(len(docs)), settings.judge_repeats)
    return TaskCost(questions=questions, seconds=seconds, calls=found.calls, dollars=found.price)


def _checkpoints(count: int, of: str = "") -> str:
    return f"{count} checkpoint{of} is" if count == 1 else f"{count} checkpoints{of} are"


def _sum(numbers: Sequence[float | None]) -> float | None:
    """None where one is not known."""
    return None if None in numbers else sum(number for number in numbers if number is not None)


def _in_hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.1f} hours" if seconds >= HOUR else f"{seconds / 60:,.1f} minutes"
