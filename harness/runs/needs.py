"""What a run of a recipe needs beside the data and the judge of its tasks: its base, its pool, its training data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.make_judge import NAME_ONE
from harness.evaluation.preflight import needs_of_models, needs_of_servers, require_ready
from harness.models.hub import SECONDS, ask_hub
from harness.models.spec import ModelSpec, find
from harness.runs.checkpoint_selection import tasks_of
from harness.serving.settings import ServerSettings
from leaderboards.board.board import Board
from support.errors import InputError, Need
from support.shards import is_there
from tasks.judges.protocol import Judge
from tasks.scenes.judge import ExactJudge
from trainers.config.data import Data, PreferenceFile
from trainers.config.recipe import PreferenceRecipe
from trainers.data.read_preferences import hub_id_of, is_local

OPTIONS: Final = "--data PATH, and --images FOLDER for its pictures"


def require_run_ready(
    recipe: PreferenceRecipe, out: Path, judge: Judge, settings: EvalSettings, server: ServerSettings | None = None
) -> None:
    """NotReady where the recipe's run lacks anything; of a run that has scored its base, only what it goes on with."""
    tasks = tasks_of(recipe)
    scored = {entry.task for entry in Board(out / "board").entries()} if (out / "board").is_dir() else set()
    if scored.issuperset(task.name for task in tasks):
        return  # each step tells what it lacks
    more = [*_needs_of_source(recipe, judge), *needs_of_servers(server, judge)]
    require_ready(tasks, judge, settings, models=[find(recipe.base)], more=more)


def _needs_of_source(recipe: PreferenceRecipe, judge: Judge) -> Iterator[Need]:
    source = recipe.preferences
    if isinstance(source, PreferenceFile):
        yield from _needs_of_pairs(source)
    else:
        yield from _needs_of_building(source, judge)


def _needs_of_pairs(dataset: PreferenceFile) -> Iterator[Need]:
    for read in filter(None, (dataset.read, dataset.held_out)):
        what = f"preference data {read!r}"
        if is_local(read):
            if not is_there(Path(read)):
                yield Need(what=what, why="no such file or folder", command=OPTIONS)
        elif why := _why_not_on_hub(read):
            yield Need(what=what, why=why, command=OPTIONS)
    if dataset.images is not None and not Path(dataset.images).exists():
        yield Need(what=f"pictures {dataset.images!r}", why="no such folder or zip", command="--images FOLDER")


def _why_not_on_hub(read: str) -> str:
    """Why the hub does not give preference data; "" if it does, or if they are in its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    name, revision = hub_id_of(read)
    try:
        snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        return ""
    except IncompleteSnapshotError:
        return ""
    except (OSError, ValueError):
        return ask_hub(lambda hub: hub.dataset_info(name, revision=revision, timeout=SECONDS))[0]


def _needs_of_building(data: Data, judge: Judge) -> Iterator[Need]:
    others = [source.name for source in data.sources if source.name != "scenes"]
    if isinstance(judge, ExactJudge) and others:
        why = f"judge {judge.model!r} knows rendered scenes only"
        yield Need(what=f"a judge for {', '.join(others)}", why=why, command=NAME_ONE)
    members: list[ModelSpec] = []
    for member in data.pool:
        if member.url is None:
            try:
                members.append(find(member.model))
            except InputError as error:
                yield Need(what=f"member {member.name} of the pool", why=str(error), command="correct the recipe")
    yield from needs_of_models(members)
