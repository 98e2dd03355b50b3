"""What the training log tells about a checkpoint, joined with its scores, and signs that something went wrong.

    log = read_log(Path("runs/silkie"))
    print(training_table(log, beta=0.1, answers={20: {"pope": 1.0}, 40: {"pope": 1.2}}))
    for alarm in find_alarms(log, total=40): print(alarm.words)

The figures are the trainer's: rewards are beta * (log pi(y|x) - log pi_ref(y|x)), so reward / beta is the difference,
in nats, between the policy's and the reference's log-probability of an answer of the data.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.runs.checkpoint_selection import Metric, Scores
from harness.runs.image_use_checks import ImageUseChecks
from leaderboards.statistics.verdict import PairedTest
from support.markdown import cell, table
from support.parsing import parse_json
from tasks.registry import TaskSpec
from trainers.training.checkpoints import UNCHANGED, find_complete_checkpoints, read_note

LENGTHS: Final = ("answer_length", "length")
"""Metrics that count the words of an answer."""

IDLE: Final = ("nothing learned", "reference moves along", "no margin")
"""Alarms of a training that did nothing: commands end with exit code 4."""
SURE: Final = 2.0
"""A mean of log lines counts as moved if it is so many standard errors from 0."""
EARLY: Final = 0.1
"""An accuracy near 1 within this share of the steps says that the pairs are told apart too easily."""
NEAR_ONE: Final = 0.95
LONGER: Final = 0.2
"""Relative change of answers' length that is a drift, if it is significant."""
OVERFIT: Final = 0.15
"""How much higher accuracy in training may be than on held-out pairs."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """The trainer's figures at one step, means over the steps since the line before; None if it has no such figure."""

    step: int
    loss: float | None = None
    margin: float | None = None
    """Reward of chosen minus that of rejected."""
    accuracy: float | None = None
    """Share of pairs whose chosen answer has the higher reward, 0-1."""
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chosen_logp: float | None = None
    """Nats an answer."""
    rejected_logp: float | None = None
    learning_rate: float | None = None


_KEYS: Final = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
    "learning_rate": "learning_rate",
}


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing to look into before the checkpoint is used."""

    name: str
    words: str


def read_log(folder: Path) -> list[LogLine]:
    """The training log of a run folder: `log.jsonl`, or what the last checkpoint of a transformers Trainer has; by
    step."""
    own = folder / "log.jsonl"
    if own.exists():
        rows = [_parse(text) for text in own.read_text(encoding="utf-8").splitlines()]
    else:
        states = [_parse(path.read_text(encoding="utf-8")) for path in folder.glob("checkpoint-*/trainer_state.json")]
        latest = max(states, key=lambda state: _number(state.get("global_step")) or 0.0, default={})
        history = latest.get("log_history")
        rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    logged = [row for row in rows if "loss" in row and isinstance(row.get("step"), int)]
    return [
        LogLine(step=row["step"], **{name: _number(row.get(key)) for name, key in _KEYS.items()})
        for row in sorted(logged, key=lambda row: row["step"])
    ]


def _parse(text: str) -> dict[str, Any]:
    """A JSON object; an empty one if the text is none, such as one that is being written."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def find_alarms(
    log: Sequence[LogLine],
    *,
    total: int,
    held_out: float | None = None,
    lengths: Mapping[str, PairedTest] | None = None,
) -> list[Alarm]:
    """Signs that preference training of `total` steps went wrong.

    `held_out`: accuracy on pairs that were not trained on, 0-1; `lengths`: paired tests of answers' length against the
    base, Holm-adjusted.
    """
    tried = (
        _find_nonfinite_loss(log),
        _find_moving_reference(log),
        _find_falling_chosen(log),
        _find_easy_pairs(log, total),
        _find_overfitting(log, held_out),
    )
    found = [alarm for alarm in tried if alarm]
    for name, verdict in (lengths or {}).items():
        change = verdict.difference / verdict.base if verdict.base and verdict.difference else 0.0
        if verdict.outcome != "not separable" and abs(change) > LONGER:
            words = f"answers of {name} went from {verdict.base:.1f} to {verdict.other:.1f} words ({change:+.0%})"
            found.append(Alarm(name="length drift", words=f"{words}; judges, and CHAIR, see length"))
    return found


def find_check_alarms(checks: ImageUseChecks) -> list[Alarm]:
    """Signs that a checkpoint does not use its images, or can't be merged."""
    found = []
    if checks.use.blind:
        with_it, without = checks.use.accuracy["image"][0], checks.use.accuracy["blank"][0]
        told = f"{with_it:.0f}% of {checks.use.pairs} pairs are told apart with their image"
        words = f"{told}, {without:.0f}% with a grey one"
        found.append(Alarm(name="image-blind", words=f"{words}: what was learned may be text alone"))
    if checks.merged is not None and not checks.merged.kept:
        share = checks.merged.error / checks.merged.effect
        rounding = f"merged into {checks.merged.dtype} weights, rounding changes logits by {share:.0%}"
        words = f"{rounding} of what the adapter does to them"
        found.append(Alarm(name="merging", words=f"{words}: keep it as an adapter"))
    if checks.merged is None and checks.unmerged.startswith("the adapter"):
        found.append(Alarm(name="merging", words=checks.unmerged))
    return found


def _find_nonfinite_loss(log: Sequence[LogLine]) -> Alarm | None:
    bad = [line.step for line in log if line.loss is not None and not math.isfinite(line.loss)]
    return Alarm(name="no number", words=f"loss is not finite at step {bad[0]}") if bad else None


def find_idle_training(out: Path) -> Alarm | None:
    """The sign that a run's last checkpoint is the model it began with, as far as answers go."""
    checkpoints = find_complete_checkpoints(out, noted=True)[0] if out.is_dir() else []
    if checkpoints and read_note(checkpoints[-1].path).get(UNCHANGED):
        last = checkpoints[-1]
        words = f"no weight has changed in {last.step} steps: {last.path} is its base"
        return Alarm(name="nothing learned", words=f"{words}; see the learning rates and losses in {out / 'log.jsonl'}")
    return _find_moving_reference(read_log(out))


def _find_moving_reference(log: Sequence[LogLine]) -> Alarm | None:
    """After the first step with a learning rate policy and reference must differ, else nothing is trained."""
    moved = [
        line
        for place, line in enumerate(log)
        if (any(earlier.learning_rate != 0 for earlier in log[:place]) or (place == 0 and line.step > 1))
        and line.chosen_reward is not None
        and line.rejected_reward is not None
    ]
    if moved and all(line.chosen_reward == 0 and line.rejected_reward == 0 for line in moved):
        same = f"policy and reference give the same log-probabilities up to step {moved[-1].step}"
        words = f"{same}: nothing was trained, or both were"
        return Alarm(name="reference moves along", words=words)
    if moved and all(line.margin == 0 for line in moved):
        words = f"the margin of chosen over rejected answers is 0 up to step {moved[-1].step}: are they the same texts?"
        return Alarm(name="no margin", words=words)
    return None


def _find_falling_chosen(log: Sequence[LogLine]) -> Alarm | None:
    """The margin grows while chosen answers, too, become less likely than to the reference."""
    chosen, margin = (
        _mean_of_last_quarter([line.chosen_reward for line in log]),
        _mean_of_last_quarter([line.margin for line in log]),
    )
    if chosen and margin and chosen[0] < -SURE * chosen[1] and margin[0] > SURE * margin[1]:
        fall = f"chosen answers became less likely too (reward {chosen[0]:+.2f})"
        words = f"the margin is {margin[0]:.2f}, but {fall}: add an SFT term"
        return Alarm(name="chosen falls", words=words)
    return None


def _find_easy_pairs(log: Sequence[LogLine], total: int) -> Alarm | None:
    early = next((line for line in log if line.accuracy is not None and line.accuracy >= NEAR_ONE), None)
    if early is not None and early.step <= EARLY * total:
        told = f"{early.accuracy:.0%} of pairs are told apart at step {early.step} of {total}"
        return Alarm(name="too easy", words=f"{told}: by length or wording, not by the image?")
    return None


def _find_overfitting(log: Sequence[LogLine], held_out: float | None) -> Alarm | None:
    accuracy = _mean_of_last_quarter([line.accuracy for line in log])
    if held_out is None or accuracy is None or accuracy[0] - held_out <= OVERFIT:
        return None
    words = f"pairs trained on are told apart in {accuracy[0]:.0%}, held-out pairs in {held_out:.0%} of cases"
    return Alarm(name="overfit", words=words)


def _mean_of_last_quarter(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean over the last quarter of the figures, at least two, and its standard error; None if there are fewer."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    last = known[-max(2, len(known) // 4) :]
    if len(last) < 2:
        return None
    mean = sum(last) / len(last)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in last) / (len(last) - 1) / len(last))


def length_metrics(tasks: Sequence[TaskSpec]) -> list[Metric]:
    """The metrics of some tasks that measure the length of answers."""
    return [(task.name, name) for task in tasks for name in task.metrics if name in LENGTHS]


def lengths_of(scores: Scores, base: str, model: str, tasks: Sequence[TaskSpec]) -> dict[str, PairedTest]:
    """Paired tests of how long answers are, Holm-adjusted."""
    return scores.panel(base, model, length_metrics(tasks))


ROWS: Final = 12
"""Log lines shown, evenly spaced, beside those of checkpoints."""

_HEAD: Final = (
    "step",
    "loss",
    "reward margin",
    "accuracy",
    "log p chosen",
    "log p rejected",
    "moved chosen",
    "moved rejected",
)
LEGEND: Final = (
    "Means over the steps since the line before. Accuracy: share of pairs whose chosen answer has the higher reward. "
    "log p: nats an answer. Moved: log-probability to the policy minus that to the reference, in nats (reward / beta)."
)


def training_table(log: Sequence[LogLine], beta: float, answers: Mapping[int, Mapping[str, float]]) -> str:
    """The log as markdown; `answers`: words an answer by step of a checkpoint and task. "" if nothing was logged."""
    if not log:
        return ""
    every = max(1, math.ceil(len(log) / ROWS))
    at = {_line_at(log, step).step for step in answers}
    shown = {
        line.step: line for place, line in enumerate(log) if place % every == 0 or line is log[-1] or line.step in at
    }
    names = list(dict.fromkeys(name for by_task in answers.values() for name in by_task))
    rows = []
    for step in sorted({*shown, *answers}):
        words = [f"{answers[step][name]:.1f}" if name in answers.get(step, {}) else "" for name in names]
        mark = f" (checkpoint-{step})" if step in answers else ""
        # A checkpoint between two lines has no figures of its own: those of another step are not its.
        figures = _format_figures(shown[step], beta) if step in shown else [""] * (len(_HEAD) - 1)
        rows.append([f"{step}{mark}", *figures, *words])
    return _table_without_empty_columns([*_HEAD, *(f"words {cell(name)}" for name in names)], rows)


def line_table(log: Sequence[LogLine], step: int, beta: float) -> str:
    """The log's line at a checkpoint's step as markdown; "" if nothing was logged."""
    if not log:
        return ""
    line = _line_at(log, step)
    return _table_without_empty_columns(_HEAD, [[str(line.step), *_format_figures(line, beta)]])


def _line_at(log: Sequence[LogLine], step: int) -> LogLine:
    """The latest line up to a step."""
    return max((line for line in log if line.step <= step), key=lambda line: line.step, default=log[0])


def _format_figures(line: LogLine, beta: float) -> list[str]:
    moved = [None if reward is None else reward / beta for reward in (line.chosen_reward, line.rejected_reward)]
    figures = (line.loss, line.margin, line.accuracy, line.chosen_logp, line.rejected_logp, *moved)
    return ["" if figure is None else f"{figure:.3f}" for figure in figures]


def _table_without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its empty columns."""
    filled = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return table([head[place] for place in filled], [[row[place] for place in filled] for row in rows])
