"""Trainings with several seeds: what they share, what the folder claims, and the verdict over all of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.engine.stage_timer import StageTimer
from harness.evaluation.eval_settings import EvalSettings
from harness.runs import train_seeds, training_data
from harness.runs.checkpoint_selection import Scores, Selection
from harness.runs.outcome import Outcome, panel_verdicts
from harness.runs.run_folder import claim
from harness.runs.train_seeds import parse_seeds, with_shared_data
from harness.runs.training_data import OneOfSeeds, SharedData, TrainingData
from leaderboards.board.board import Board
from leaderboards.board.entry import RECIPE, TRAINING_SAVE, TRAINING_SEED
from support.errors import InputError, RecipeError, UsageError
from tasks.judges.reasons import Reason
from tasks.registry import registry
from tests.harness.scored_runs import put, right
from trainers.config.recipe import PreferenceRecipe, find_recipe, preference_recipe
from trainers.data.image_hashes import HashCache
from trainers.data.pair_formats import write_pairs
from trainers.data.read_preferences import digest
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint

PAIRS = [Preference(id=str(n), prompt=f"{n}?", images=(), chosen="a", rejected="b", row=n) for n in range(4)]


@pytest.mark.parametrize(
    ("text", "first", "seeds"), (("3", 0, (0, 1, 2)), ("2", 42, (42, 43)), ("0, 7,3", 42, (0, 7, 3)))
)
def test_seeds_are_a_number_from_the_recipes_on_or_a_list(text: str, first: int, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text, first) == seeds


@pytest.mark.parametrize(
    ("text", "why"),
    (
        ("1", "2 to 100 trainings; --seed 1 trains"),
        ("101", "2 to 100 trainings; --seed 101 trains"),
        ("0,1,0", "0 is given twice"),
        ("0,1.5", "must be how many"),
        ("-2", "must be how many"),
        ("", "must be how many"),
        ("²", "must be how many"),
        ("1,4294967296", "not 4294967296"),
    ),
)
def test_other_seeds_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_seeds(text, 0)


def test_recipes_of_all_seeds_build_the_same_data_and_differ_by_their_seed_alone() -> None:
    recipe = with_shared_data(preference_recipe("scenes-demo", seed=5))
    seeds = [recipe.model_copy(update={"seed": seed}) for seed in (5, 6)]
    assert {one.seed_of_data for one in seeds} == {5}
    assert len({one.settings for one in seeds}) == 1
    assert len({one.digest for one in seeds}) == 2
    assert seeds[0].settings != preference_recipe("scenes-demo", seed=5).settings  # whose data change with its seed
    read = preference_recipe("silkie")
    assert with_shared_data(read) is read


def test_a_seed_of_data_that_would_not_act_is_refused() -> None:
    with pytest.raises(RecipeError, match="data_seed is for"):
        find_recipe("silkie", data_seed=0)
    with pytest.raises(RecipeError, match="data_seed is given"):
        find_recipe("scenes-base", data_seed=0)
    assert preference_recipe("scenes-demo", data_seed=0).seed_of_data == 0


def test_a_folder_of_several_trainings_is_none_of_a_single_one(tmp_path: Path) -> None:
    recipe = preference_recipe("silkie")
    claim(tmp_path, recipe, several=True)
    claim(tmp_path, recipe, several=True)
    with pytest.raises(InputError, match="several_seeds: true there, false asked"):
        claim(tmp_path, recipe)


def build(folder: Path, failed: float = 0.25) -> TrainingData:
    """What `prepare_training_data` leaves and gives, of pairs without pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pairs(PAIRS, folder / "pairs.jsonl")
    with HashCache(folder / "facts") as cache:
        mark = digest(PAIRS, cache)
    lost: dict[str, Any] = {"failed": failed, "reasons": [Reason(reason="status 500", count=1, example="3")]}
    return TrainingData(
        pairs=PAIRS, held_out=[], digest=mark, summary="built from 4 instructions", built=None, leaks={}, **lost
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders in which data were prepared."""
    found: list[Path] = []

    def prepare(recipe: PreferenceRecipe, folder: Path, *given: Any, **more: Any) -> TrainingData:
        found.append(folder)
        return build(folder)

    monkeypatch.setattr(training_data, "prepare_training_data", prepare)
    return found


def test_data_are_prepared_once_and_what_failed_is_not_asked_for_again(tmp_path: Path, calls: list[Path]) -> None:
    recipe = preference_recipe("scenes-demo")
    given: tuple[Any, ...] = (None, [], StageTimer(tmp_path / "seconds.json"), EvalSettings())
    shared = SharedData(tmp_path)
    first = shared.prepare(recipe, *given)
    assert shared.prepare(recipe, *given) is first
    again = SharedData(tmp_path).prepare(recipe, *given)  # by the same command, later
    assert calls == [tmp_path / "data"]
    assert (again.pairs, again.digest, again.failed, again.reasons) == (PAIRS, first.digest, 0.25, first.reasons)

    write_pairs(PAIRS[1:], tmp_path / "data" / "pairs.jsonl")
    with pytest.raises(InputError, match="began with other pairs"):
        SharedData(tmp_path).prepare(recipe, *given)
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(InputError, match=r"data\.json: can't be read"):
        SharedData(tmp_path).prepare(recipe, *given)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, calls: list[Path]) -> dict[int, int]:
    """Trainings without training: seed -> right answers of 80 that its checkpoint gives; the base gives 40."""
    answers: dict[int, int] = {}

    def train(recipe: PreferenceRecipe, place: OneOfSeeds, judge: Any, **given: Any) -> Outcome:
        out, shared = place.out, place.shared
        board, step = Board(shared.out / "board"), out / "checkpoint-10"
        step.mkdir(parents=True, exist_ok=True)
        if not board.folder.is_dir():
            put(board, "scenes-base", "scenes_mme", right(40, of=80), run="base", unit="%")
        facts = {RECIPE: recipe.settings, TRAINING_SEED: str(recipe.seed), TRAINING_SAVE: "last"}
        run = f"seed-{recipe.seed}"
        put(
            board,
            step.as_posix(),
            "scenes_mme",
            right(answers[recipe.seed], of=80),
            run=run,
            unit="%",
            provenance=facts,
        )
        data = shared.prepare(recipe, judge, [], StageTimer(out / "seconds.json"), EvalSettings())
        scores, checkpoints = Scores(board), [Checkpoint(path=step, step=10, arm="dpo")]
        tasks = [registry().task("scenes_mme")]
        return Outcome(
            out=out,
            board=board.folder,
            recipe=recipe,
            base="scenes-base",
            checkpoints=checkpoints,
            entries=[entry for entry in scores.entries if entry.model in ("scenes-base", step.as_posix())],
            verdicts=panel_verdicts(scores, recipe, tasks, checkpoints),
            selection=Selection(model=step.as_posix(), highest={}, worse={}, comparisons=0),
            data=replace(data, failed=0.0),
            log=[],
            alarms=[],
            checks="not looked at",
            stop=None,
            seconds={},
            lost=0.0,
        )

    monkeypatch.setattr(train_seeds, "train_then_eval", train)
    return answers


def run(recipe: Path, out: Path, *more: str) -> int:
    words = ["train-then-eval", str(recipe), "--tasks", "scenes_mme", "--out", str(out), *more]
    return cli.run(words)


def test_the_verdict_over_seeds_is_that_of_compare_and_of_the_report(
    trained: dict[int, int], calls: list[Path], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained |= {0: 70, 1: 72, 2: 71}
    out = tmp_path / "all"
    assert run(tiny_recipe, out, "--seeds", "3", "--require-better", "scenes_mme", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert calls == [out / "data"]
    assert printed["seeds"] == [0, 1, 2]
    assert set(printed["runs"]) == {"0", "1", "2"}
    again = ["compare", "--runs", f"{out}/seed*", "--base", "scenes-base", "--board", str(out), "--json"]
    assert cli.run(again) == 0
    assert printed["comparisons"]["dpo against base"] == json.loads(capsys.readouterr().out)
    report = (out / "report.md").read_text()
    for part in ("of 3 seeds 3 better, 3 higher", "scenes\\_mme.accuracy: better", "seed2/checkpoint-10", "--seeds 5"):
        assert part in report.replace("scenes_mme", "scenes\\_mme")
    assert all((out / f"seed{seed}" / "report.md").is_file() for seed in range(3))


def test_required_metrics_are_asked_of_the_mean(
    trained: dict[int, int], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained |= {0: 10, 1: 72}  # the second one alone is better
    assert run(tiny_recipe, tmp_path / "all", "--seeds", "0,1", "--require-better", "scenes_mme") == 3
    assert "the mean of 2 seeds against scenes-base: scenes_mme.accuracy is not separable" in capsys.readouterr().err


def test_what_a_dry_run_tells_is_of_all_seeds(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for more in ([], ["--seeds", "3"]):
        assert run(tiny_recipe, tmp_path / "none", *more, "--dry-run", "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    each = told[0]["questions"] // 4  # the base, two checkpoints, and the control's last one
    assert told[1]["questions"] == each * (1 + 3 * 3)
    assert any("seeds 0, 1, 2" in step for step in told[1]["steps"])
    assert not (tmp_path / "none").exists()


def test_seeds_and_a_seed_that_would_not_act_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train-then-eval", "silkie", "--judge", "gpt-4o-2024-11-20", "--dry-run"]
    assert cli.run([*words, "--seeds", "0,1", "--seed", "3"]) == 2
    assert "--seed has no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_a_base_is_scored_and_data_are_built_once_for_all_seeds(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny"
    words = ["train-then-eval", str(tiny_recipe), "--out", str(out), "--limit", "6", "--seeds", "2"]
    assert cli.run(words) == 0
    said = capsys.readouterr().err
    assert said.count("scenes-base: scoring") == 1
    assert said.count("ratings: 6/6") == 1
    weights = {path.read_bytes() for path in out.glob("seed*/checkpoint-*/adapter_model.safetensors")}
    assert len(weights) == 2
    for path in out.glob("seed1"):
        (path / "checkpoint-1" / "checkpoint.json").unlink()  # as killed before it was whole
    before = {path: path.stat().st_mtime_ns for path in [*out.glob("board/*"), *out.glob("data/*.jsonl")]}
    assert cli.run(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    now = {path.read_bytes() for path in out.glob("seed*/checkpoint-*/adapter_model.safetensors")}
    assert now == weights
