"""The functions of the Python interface, `import harness; harness.evaluate(...)`; examples are in docs/python.md.

Models, tasks and judges are given by name or as objects; errors are those of `support.errors`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from harness.engine.config import EngineConfig
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.make_judge import judge_or_estimator, make_judge
from harness.models.spec import ModelSpec, find
from harness.results import CheckResult, CompareResult, EvalResult, ScoreResult, TrainResult
from leaderboards.board.board import Board
from leaderboards.gate.gate import GateSettings
from leaderboards.gate.source import GateSource
from support.errors import InputError, Need
from support.judge_names import SCENES
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec, add_task, registry
from trainers.config.recipe import PreferenceRecipe

Model: TypeAlias = str | Path | ModelSpec | tuple[Any, Any]
"""A name, a folder, a hub id or openai:ID, as for `harness eval --model`; or a loaded transformers model and its
processor."""
Tasks: TypeAlias = str | Path | TaskSpec | Sequence[str | Path | TaskSpec]
"""Names of tasks or suites, which may be separated by commas; paths of task YAML files; or specs."""
Boards: TypeAlias = str | Path | Board
"""A board, its folder, or a folder with several."""


def evaluate(
    model: Model,
    tasks: Tasks = "scenes",
    *,
    judge: str | Judge | None = None,
    limit: int | None = None,
    settings: EvalSettings | None = None,
    engine: EngineConfig | None = None,
    board: Boards | None = None,
    name: str | None = None,
) -> EvalResult:
    """Score a model on tasks. NotReady, before anything is downloaded or asked, with all `needs` that are missing.

    `judge` rates judged tasks; None: the judge "scenes", of scenes tasks. `limit` replaces that of `settings`.
    `board` gets the scores; scores that it has already are not computed again. `name` is the model's name there.
    """
    from harness.evaluation.preflight import look_at_run
    from harness.evaluation.score_models import ModelScorer

    settings = settings or EvalSettings()
    if limit is not None:
        if limit < 1:
            raise InputError(f"limit = {limit}: must be at least 1")
        settings = replace(settings, limit=limit)
    chosen = _find_tasks(tasks)
    kept = _open_board(board) if board is not None else None
    lacking: list[Need] = []
    rater = _find_judge(judge, lacking) if any(task.judged for task in chosen) else None
    scorer = ModelScorer(tasks=chosen, judge=rater, settings=settings, engine=engine or EngineConfig(), board=kept)
    with scorer, _find_model(model) as (spec, own_name):
        name = name or own_name
        ready = look_at_run(chosen, rater, settings, models=[spec], more=lacking)
        scorer.require(ready.needs, [(name, spec)])
        found = scorer.score(spec, name)
    if found is not None:
        return EvalResult(model=name, entries=found.entries, samples=found.samples, seconds=found.seconds)
    names = {task.name for task in chosen}
    entries = kept.measured(settings.limit) if kept is not None else []
    return EvalResult(model=name, entries=[each for each in entries if each.model == name and each.task in names])


def score(
    task: str | Path | TaskSpec,
    path: str | Path,
    *,
    references: str | Path | None = None,
    judge: str | Judge | None = None,
    judge_repeats: int = 1,
) -> ScoreResult:
    """The official scores of answers in the benchmark's own format, or in a sample log.

    `references` is the folder of published files that some scores need; `judge` rates answers without a rating.
    """
    from harness.evaluation.score_files import score as score_file

    (spec,) = _find_tasks(task)
    rater = None if judge is None else _find_judge(judge)
    folder = None if references is None else Path(references)
    return ScoreResult(score=score_file(spec, Path(path), folder, judge=rater, judge_repeats=judge_repeats))


def train_then_eval(
    recipe: str | Path | PreferenceRecipe,
    out: str | Path | None = None,
    *,
    judge: str | Judge | None = None,
    limit: int | None = None,
    early_stop: Sequence[str] = (),
    trust_remote_code: bool = False,
    **changes: Any,
) -> TrainResult:
    """Score the base, train, score every checkpoint, compare; in this process. Continues an interrupted run. NotReady,
    before anything is done, with all `needs` that are missing.

    `out` is the run folder, runs/RECIPE by default. `limit` is the largest number of instructions, and of documents of
    each task. `early_stop` names "task" or "task.metric": training ends once it is significantly worse than the base's.
    `trust_remote_code`: Python code that comes with the recipe's models may run. `changes` replace top-level values of
    the recipe, such as `seed=1`.
    """
    from harness.runs.needs import look_at_recipe
    from harness.runs.report import write_report
    from harness.runs.train_then_eval import train_then_eval as run
    from trainers.config.recipe import parse_as, preference_recipe

    if isinstance(recipe, PreferenceRecipe):
        found = parse_as(PreferenceRecipe, recipe.model_dump(exclude_unset=True) | changes) if changes else recipe
    else:
        found = preference_recipe(str(recipe), **changes)
    folder = Path(out) if out is not None else Path("runs") / found.name
    lacking: list[Need] = []
    rater = _find_judge(judge if judge is not None or found.data is None else found.data.judge, lacking)
    settings = EvalSettings(limit=limit)
    look_at_recipe(found, folder, rater, settings, more=lacking).require()
    outcome = run(found, folder, rater, settings=settings, early_stop=early_stop, remote_code=trust_remote_code)
    return TrainResult(outcome=outcome, report=write_report(outcome))


def compare(
    before: str | EvalResult,
    after: str | EvalResult,
    *,
    board: Boards | Sequence[Boards] = "runs",
    headline: bool = False,
    partial: bool = True,
) -> CompareResult:
    """Paired comparison of two models, and the answers that changed.

    Each is a name on the boards, a path of a board or of a run's JSON file, or a result of `evaluate`. `headline`: only
    the metric that ranks models. `partial`: include runs with a limit.
    """
    from harness.evaluation.find_boards import boards_in, find_models, metric_of
    from harness.evaluation.guards import guards_of
    from leaderboards.comparison.compare import compare_runs

    boards: list[Board] = []
    if isinstance(before, str) or isinstance(after, str):
        for each in [board] if isinstance(board, (str, Path, Board)) else board:
            boards += [each] if isinstance(each, Board) else boards_in(Path(each))

    def find_side(side: str | EvalResult) -> GateSource:
        if isinstance(side, str):
            return find_models([side], boards, partial=partial)[0]
        return GateSource(entries=side.entries, samples=lambda run: [each for each in side.samples if each.run == run])

    old, new = find_side(before), find_side(after)
    logs = (old.samples, new.samples)
    found = compare_runs(
        old.entries, new.entries, samples=logs, metrics=metric_of, guards=guards_of, only_headline=headline
    )
    return CompareResult(comparison=found)


def check(
    baseline: Boards,
    board: Boards | None = None,
    *,
    tolerances: Mapping[str, float] | None = None,
    require_better: Sequence[str] = (),
    models: tuple[str, str] | None = None,
    partial: bool = False,
) -> CheckResult:
    """The regression gate: scores of `board` (of the baseline's own board, if `models` are given) against a baseline.

    `tolerances` is "task.metric" -> the change allowed in its unit; `require_better` names metrics that must be
    significantly better; `models` are the baseline's model and the new one. `partial`: include runs with a limit.
    """
    from harness.evaluation.check_boards import check_boards

    settings = GateSettings(tolerances=tolerances or {}, require_better=require_better, models=models)
    old, new = (each.folder if isinstance(each, Board) else each and Path(each) for each in (baseline, board))
    return CheckResult(gate=check_boards(old or Path(), new or None, settings, partial=partial))


def _open_board(board: Boards) -> Board:
    if isinstance(board, Board):
        return board
    folder = Path(board)
    return Board(folder if folder.name == "board" else folder / "board")


def _find_judge(judge: str | Judge | None, lacking: list[Need] | None = None) -> Judge:
    if judge is not None and not isinstance(judge, str):
        return judge
    return make_judge(judge or SCENES) if lacking is None else judge_or_estimator(judge or SCENES, lacking)


def _find_tasks(tasks: Tasks) -> list[TaskSpec]:
    found: list[TaskSpec] = []
    for each in [tasks] if isinstance(tasks, (str, Path, TaskSpec)) else tasks:
        if isinstance(each, TaskSpec):
            found.append(each)
        elif str(each).endswith((".yaml", ".yml")):
            found.append(add_task(Path(each)))
        else:
            found += registry().expand([name.strip() for name in str(each).split(",") if name.strip()])
    return list({task.name: task for task in found}.values())


@contextmanager
def _find_model(model: Model) -> Iterator[tuple[ModelSpec, str]]:
    """The model and its name on boards.

    A loaded model is saved in a temporary folder and read from there, so that its entries have a digest of its weights.
    """
    if isinstance(model, ModelSpec):
        yield model, model.name
    elif isinstance(model, tuple):
        loaded, processor = model
        with TemporaryDirectory(prefix="harness-model-") as folder:
            loaded.save_pretrained(folder)
            processor.save_pretrained(folder)
            yield find(folder), type(loaded).__name__
    else:
        spec = find(str(model))
        yield spec, spec.name
