"""What a recipe's run needs beside the data and the judge of its tasks: its base, its pool, its training data."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.datasets.readiness import find_models, look_at_building
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.preflight import Readiness, look_at_run
from harness.models.hub import why_no_dataset
from harness.models.readiness import NOTHING, look_at_models
from harness.runs.checkpoint_selection import tasks_of
from harness.serving.settings import ServerSettings
from leaderboards.board.board import Board
from support.errors import Need
from support.shards import is_there
from tasks.judges.protocol import Judge
from trainers.config.data import PreferenceFile
from trainers.config.recipe import PreferenceRecipe
from trainers.data.read_preferences import hub_id_of, is_local

OPTIONS: Final = "--train-data PATH, and --images FOLDER for its pictures"


def look_at_recipe(
    recipe: PreferenceRecipe,
    out: Path,
    judge: Judge,
    settings: EvalSettings,
    *,
    server: ServerSettings | None = None,
    more: Iterable[Need] = (),
) -> Readiness:
    """What the recipe's run lacks, with what `more` is missing; of a run that has scored its base, only what it goes on
    with."""
    tasks = tasks_of(recipe)
    scored = {entry.task for entry in Board(out / "board").entries()} if (out / "board").is_dir() else set()
    if scored.issuperset(task.name for task in tasks):
        return Readiness(needs=tuple(more), disk=NOTHING)  # each step tells what it lacks
    models, needs = find_models({"base": recipe.base}, correct="correct the recipe")
    if isinstance(recipe.preferences, PreferenceFile):
        needs += needs_of_pairs(recipe.preferences)
    else:
        members, lacking = look_at_building(recipe.preferences, judge, out / "data")
        models, needs = [*models, *members], [*needs, *lacking]
    return look_at_run(tasks, judge, settings, models=models, more=[*needs, *more], server=server)


def look_at_training(
    recipe: PreferenceRecipe,
    dataset: PreferenceFile,
    *,
    adapters_base: str | None = None,
    more: Iterable[Need] = (),
) -> Readiness:
    """What training by a recipe on data that are there lacks, with what `more` is missing; `adapters_base` is what its
    base goes on, where that is an adapter."""
    models, needs = find_models({"base": recipe.base}, correct="name another by --base", base=adapters_base)
    found = look_at_models(models)
    needs = [*found.needs, *needs, *needs_of_pairs(dataset), *more, *found.room()]
    return Readiness(needs=tuple(dict.fromkeys(needs)), disk=found.disk, unsized=found.unsized)


def needs_of_pairs(dataset: PreferenceFile) -> Iterator[Need]:
    """What is missing of preference data that are there already."""
    for read in filter(None, (dataset.read, dataset.held_out)):
        what = f"preference data {read!r}"
        if is_local(read):
            if not is_there(Path(read)):
                yield Need(what=what, why="no such file or folder", command=OPTIONS)
        elif why := why_no_dataset(*hub_id_of(read)):
            yield Need(what=what, why=why, command=OPTIONS)
    if dataset.images is not None and not Path(dataset.images).exists():
        yield Need(what=f"pictures {dataset.images!r}", why="no such folder or zip", command="--images FOLDER")
