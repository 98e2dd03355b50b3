"""Trainings of one recipe that differ by their seed alone, and what their mean says against the base.

    found = train_seeds(recipe, [0, 1, 2], Path("runs/x-seeds"), judge)
    print(render(found))                                    # harness/runs/seeds_report.py

The folder holds what they share (the board, the data, a merged base), and a run folder for each: seed0, seed1, ...
Each is a run as `train_then_eval` does it; the first of them scores the base and prepares the data. So the same command
finishes a run that was killed, and one with more seeds trains the others alone.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.evaluation.compare_seeds import compare_groups
from harness.evaluation.eval_settings import EvalSettings
from harness.runs.checkpoint_selection import panel_of, tasks_of
from harness.runs.outcome import Outcome
from harness.runs.recipe_scoring import settle_engine
from harness.runs.report import write_report
from harness.runs.run_folder import claim, hold_run_folder, keep_own_scoring
from harness.runs.train_then_eval import limited, train_then_eval
from harness.runs.training_data import OneOfSeeds, SharedData
from leaderboards.board.board import Board
from leaderboards.comparison.compare import Comparison
from leaderboards.comparison.seed_rows import SeedGroup, group_of
from leaderboards.statistics.verdict import PairedTest
from support.errors import CompareError, UsageError
from tasks.judges.protocol import Judge
from trainers.config.recipe import PreferenceRecipe

log = logging.getLogger(__name__)

MOST: Final = 100
"""Trainings of one command."""
LARGEST: Final = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class SeedsOutcome:
    """What finished trainings with several seeds have to show."""

    out: Path
    recipe: PreferenceRecipe
    runs: Mapping[int, Outcome]
    """By seed."""
    comparisons: Mapping[str, Comparison | str]
    """"dpo against base" -> the mean over all seeds against it; or why there is none."""

    @property
    def first(self) -> Outcome:
        """The first seed's: base, data and tasks are those of all."""
        return next(iter(self.runs.values()))

    @property
    def partial(self) -> bool:
        """Whether scores are of a limit, or of partial data."""
        return any(entry.partial for one in self.runs.values() for entry in one.entries)

    @property
    def panel(self) -> dict[str, PairedTest]:
        """ "task.metric" -> the test of the trained models' mean, of the metrics that a single run's report tests."""
        found = self.comparisons.get(f"{self.recipe.trainer} against base", "")
        if isinstance(found, str):
            return {}
        names = [".".join(metric) for metric in panel_of(self.recipe, tasks_of(self.recipe))]
        tests = {f"{one.before.task}.{one.before.metric}": one.verdict for one in found.changes}
        return {name: test for name in names if (test := tests.get(name)) is not None}


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """The seeds that --seeds says: a number of them, from `first` on, or a list; UsageError."""
    parts = [part.strip() for part in text.split(",")]
    many = len(parts) > 1
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text!r}: must be how many, such as 3, or a list such as 0,1,2")
    numbers = [int(part) for part in parts]
    count = len(numbers) if many else numbers[0]
    if not 2 <= count <= MOST:
        more = "" if many else f"; --seed {count} trains with this one"
        raise UsageError(f"--seeds {text!r}: must be 2 to {MOST} trainings{more}")
    seeds = tuple(numbers) if many else tuple(range(first, first + count))
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UsageError(f"--seeds {text!r}: {twice[0]} is given twice")
    if max(seeds) > LARGEST:
        raise UsageError(f"--seeds {text!r}: seeds are from 0 to {LARGEST}, not {max(seeds)}")
    return seeds


def with_shared_data(recipe: PreferenceRecipe) -> PreferenceRecipe:
    """The recipe whose data stay the same with other seeds."""
    return recipe if recipe.data is None else recipe.model_copy(update={"data_seed": recipe.seed_of_data})


def folder_of(out: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return out / f"seed{seed}"


def train_seeds(
    recipe: PreferenceRecipe,
    seeds: Sequence[int],
    out: Path,
    judge: Judge,
    *,
    settings: EvalSettings | None = None,
    **given: Any,
) -> SeedsOutcome:
    """Do, or finish, the run of each seed below `out`, one after the other; `given` as for `train_then_eval`."""
    limit = None if settings is None else settings.limit
    recipe = limited(with_shared_data(recipe), limit)
    shared = SharedData(out)
    runs: dict[int, Outcome] = {}
    with hold_run_folder(out):
        recipe = settle_engine(keep_own_scoring(out, recipe), remote_code=bool(given.get("remote_code")))
        claim(out, recipe, limit, several=True)
        for number, seed in enumerate(seeds, start=1):
            log.info("seed %d: training %d of %d, in %s", seed, number, len(seeds), folder_of(out, seed))
            own = recipe.model_copy(update={"seed": seed})
            place = OneOfSeeds(folder_of(out, seed), shared)
            runs[seed] = train_then_eval(own, place, judge, settings=settings, **given)
            write_report(runs[seed])
    return SeedsOutcome(out=out, recipe=recipe, runs=runs, comparisons=_compare(recipe, runs))


def _compare(recipe: PreferenceRecipe, runs: Mapping[int, Outcome]) -> dict[str, Comparison | str]:
    """The last checkpoints of each arm against the base, and of the main arm against the control."""
    first = next(iter(runs.values()))
    last = {
        arm: [run.of_arm(arm)[-1].path.as_posix() for run in runs.values() if run.of_arm(arm)]
        for arm in dict.fromkeys((recipe.trainer, *(one.arm for run in runs.values() for one in run.checkpoints)))
    }
    base = SeedGroup(name=first.base, models=(first.base,))
    board, partial = Board(first.board), any(entry.partial for entry in first.entries)
    groups = {arm: group_of(models) for arm, models in last.items() if len(models) == len(runs)}
    sides = {f"{arm} against base": (base, group) for arm, group in groups.items()}
    if "sft" in groups and recipe.trainer != "sft":
        sides[f"{recipe.trainer} against sft"] = groups["sft"], groups[recipe.trainer]
    found: dict[str, Comparison | str] = {}
    for label, pair in sides.items():
        try:
            found[label] = compare_groups(pair, [board], partial=partial)
        except CompareError as error:
            found[label] = str(error)
    return found
