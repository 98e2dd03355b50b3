"""What a training run ended with: its data, where it stopped, its paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from harness.runs.checkpoint_selection import Scores, Selection, find_tested, panel_of, tasks_of
from harness.runs.image_use_checks import ImageUseChecks
from harness.runs.training_alarms import Alarm, LogLine
from harness.runs.training_data import TrainingData
from leaderboards.board.entry import Entry
from leaderboards.statistics.looks import adjusted_for_look
from leaderboards.statistics.verdict import PairedTest
from tasks.registry import TaskSpec
from trainers.config.recipe import PreferenceRecipe
from trainers.training.checkpoints import Checkpoint

STOPPED: Final = "early_stop.json"
"""Why a run was stopped, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why training ended early: a probe became significantly worse."""

    step: int
    probe: str
    base: float
    value: float
    p: float
    """Adjusted by alpha spending: each look that was planned has an equal share of the 5% (Bonferroni)."""
    looks: int

    @property
    def words(self) -> str:
        """In a line."""
        change = f"from {self.base:.4g} to {self.value:.4g}"
        spent = f"p {self.p:.2g}, by alpha spending over {self.looks} planned looks"
        return f"{self.probe} became worse, {change}, at step {self.step} ({spent})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run has to show."""

    out: Path
    board: Path
    """The board's folder: the run's own, or one that trainings with other seeds share."""
    recipe: PreferenceRecipe
    base: str
    """Board name of the model that was trained."""
    checkpoints: list[Checkpoint]
    """Of all arms, each arm's first to last; also those that the trainer has removed since they were scored."""
    entries: list[Entry]
    verdicts: dict[str, dict[str, PairedTest]]
    """"dpo against base" -> "task.metric" -> paired test, Holm-adjusted within each."""
    selection: Selection
    """Of the main arm's checkpoints that the trainer has kept, by the tasks' headline metrics."""
    data: TrainingData
    log: list[LogLine]
    """Of the main arm."""
    alarms: list[Alarm]
    """Of the main arm's last checkpoint, and of probes that have no value."""
    checks: ImageUseChecks | str
    """Of the main arm's last checkpoint; or why there are none."""
    stop: Stop | None
    seconds: dict[str, float]
    """Wall time a stage took, over all calls that worked on this run."""
    lost: float
    """Largest share of failed, unscored or unparsed samples of any evaluation, or of failures per instruction in the
    data."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Board name of a checkpoint whose scoring failed -> why; the next call tries it again."""

    @property
    def removed(self) -> list[str]:
        """Board names of the main arm's checkpoints that are gone since they were scored."""
        return [
            checkpoint.path.as_posix()
            for checkpoint in self.of_arm(self.recipe.trainer)
            if not checkpoint.path.is_dir()
        ]

    def of_arm(self, arm: str) -> list[Checkpoint]:
        """One arm's checkpoints, first to last."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.arm == arm]

    @property
    def last(self) -> str:
        """Board name of the main arm's last checkpoint."""
        return self.of_arm(self.recipe.trainer)[-1].path.as_posix()


def unmet(outcome: Outcome, required: Sequence[str] = ()) -> str:
    """Why the last checkpoint is not better than the base, in a line; "" where it is.

    `required` names metrics of the panel ("task.metric", or a task for its headline) that all have to be better. None
    given: one at least is, and none is worse. BadInput for a name that the panel lacks.
    """
    found = outcome.verdicts[f"{outcome.recipe.trainer} against base"]
    return unmet_tests(found, outcome.recipe, (outcome.last, outcome.base), required)


def unmet_tests(
    found: Mapping[str, PairedTest], recipe: PreferenceRecipe, names_of: tuple[str, str], required: Sequence[str]
) -> str:
    """The same of any tests by "task.metric"; `names_of`: what was trained, and the base."""
    trained, base = names_of
    if not required:
        worse = [name for name, verdict in found.items() if verdict.outcome == "worse"]
        if worse:
            return f"{trained} is worse than {base} by {', '.join(worse)}"
        if fallen := [f"{name} is {found[name].words}" for name in found if found[name].outcome == "not better"]:
            return f"{trained} against {base}: {', '.join(fallen)}"
        better = any(verdict.outcome == "better" for verdict in found.values())
        return "" if better else f"{trained} is better by none of the panel"
    known = list(dict.fromkeys([*(".".join(metric) for metric in panel_of(recipe, tasks_of(recipe))), *found]))
    names = [find_tested(name, known) for name in required]
    outcomes = {name: found[name].words if name in found else "without a verdict" for name in names}
    short = [f"{name} is {now}" for name, now in outcomes.items() if now != "better"]
    return f"{trained} against {base}: {', '.join(short)}" if short else ""


CONTROL: Final = "control"


def panel_verdicts(
    scores: Scores,
    recipe: PreferenceRecipe,
    tasks: Sequence[TaskSpec],
    checkpoints: Sequence[Checkpoint],
    *,
    looks: int = 1,
) -> dict[str, dict[str, PairedTest]]:
    """The last checkpoint of each arm against the base, and of the main arm against the control; adjusted for the
    `looks` at one of which training was stopped: it is the last for what was seen there."""
    last = {checkpoint.arm: checkpoint.path.as_posix() for checkpoint in checkpoints}
    compared = {f"{arm} against base": (recipe.base, name) for arm, name in last.items()}
    if "sft" in last and recipe.trainer != "sft":
        compared[f"{recipe.trainer} against sft"] = (last["sft"], last[recipe.trainer])
    metrics = panel_of(recipe, tasks)
    found = {label: scores.panel(before, after, metrics) for label, (before, after) in compared.items()}
    return {label: adjusted_for_stop(tests, looks) for label, tests in found.items()}


def adjusted_for_stop(tests: Mapping[str, PairedTest], looks: int) -> dict[str, PairedTest]:
    """Tests of what was seen where training was stopped, at one of so many planned looks."""
    return {name: replace(test, p=adjusted_for_look(test.p, 1, looks)) for name, test in tests.items()}


def verdict_json(verdict: PairedTest) -> dict[str, Any]:
    """A verdict with its outcome, for --json."""
    guards = [asdict(guard) | {"worse": guard.worse} for guard in verdict.guards]
    return {**asdict(verdict), "guards": guards, "outcome": verdict.words}
