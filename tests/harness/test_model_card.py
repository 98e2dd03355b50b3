"""What a checkpoint's README says, and that nothing in it is markup from a name."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.runs.checkpoint_selection import Scores, Selection
from harness.runs.interim_scoring import _ScoreBetweenSaves
from harness.runs.model_card import card, write_cards
from harness.runs.outcome import Outcome, Stop, unmet
from harness.runs.report import render, values_of
from harness.runs.scoring_queue import Scoring
from harness.runs.training_alarms import Alarm, LogLine
from harness.runs.training_data import TrainingData
from leaderboards.board.board import Board
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.glossary import stopped_of
from support.errors import InputError
from tasks.registry import registry
from tests.harness.scored_runs import put, right
from trainers.config.recipe import preference_recipe
from trainers.data.rows import Preference
from trainers.training.checkpoints import Checkpoint
from trainers.training.job import Job


def put_mme(board: Board, model: str, run: str, correct: int) -> None:
    provenance = {"leaks": "3"} if correct > 50 else {}
    put(board, model, "scenes_mme", right(correct, of=80), run=run, unit="%", provenance=provenance)


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """A run whose second checkpoint has got better."""
    recipe = preference_recipe("scenes-demo").model_copy(update={"tasks": ("scenes_mme",), "panel": (), "name": "a|b*"})
    checkpoints = [Checkpoint(path=tmp_path / f"checkpoint-{step}", step=step, arm="dpo") for step in (5, 10)]
    board = Board(tmp_path / "board")
    put_mme(board, "scenes-base", "base", 40)
    for checkpoint, correct in zip(checkpoints, (42, 70), strict=True):
        checkpoint.path.mkdir()
        (checkpoint.path / "adapter_config.json").write_text("{}")
        put_mme(board, checkpoint.path.as_posix(), checkpoint.path.name, correct)
    scores = Scores(board)
    pairs = [
        Preference(id=str(index), prompt="?", images=(), chosen="a", rejected="b", row=index // 2) for index in range(6)
    ]
    last = checkpoints[-1].path.as_posix()
    return Outcome(
        out=tmp_path,
        board=tmp_path / "board",
        recipe=recipe,
        base="scenes-base",
        checkpoints=checkpoints,
        entries=scores.entries,
        verdicts={"dpo against base": scores.panel("scenes-base", last, [("scenes_mme", "accuracy")])},
        selection=Selection(model=last, highest={"scenes_mme.accuracy": last}, worse={}, comparisons=1),
        data=TrainingData(
            pairs=pairs, held_out=[], digest="0123abcd", summary="six | pairs", built=None, leaks={"scenes_mme": 3}
        ),
        log=[LogLine(step=5, loss=0.6, margin=0.2, accuracy=0.6), LogLine(step=10, loss=0.5, margin=0.9, accuracy=0.8)],
        alarms=[Alarm(name="length drift", words="answers | went up")],
        checks="no pair has an image",
        stop=None,
        seconds={},
        lost=0.0,
    )


def test_what_was_seen_at_a_stop_is_adjusted_for_all_looks_in_the_card_and_in_the_report(outcome: Outcome) -> None:
    stopped = replace(outcome, stop=Stop(step=10, probe="scenes_mme", base=50.0, value=87.5, p=0.01, looks=10**12))
    before, after = (write_cards(each)[-1].read_text() for each in (outcome, stopped))
    said = stopped_of(10**12)
    assert said in after
    assert said not in before
    assert "Separable: scenes_mme.accuracy better" in before
    assert "Separable: nothing" in after
    assert said in render(stopped)
    assert said in values_of(stopped)["glossary"]["p"]
    assert said not in values_of(outcome)["glossary"]["p"]


def test_a_card_says_base_data_recipe_verdict_diagnostics_and_how_to_load(outcome: Outcome) -> None:
    written = write_cards(outcome)
    assert [path.parent.name for path in written] == ["checkpoint-5", "checkpoint-10"]
    text = written[-1].read_text()
    for part in (
        "`scenes-base` after 10 steps",
        "Licence of the base: Apache-2.0",
        "it is the one to take",
        "| scenes_mme.accuracy",
        "better",
        "6 from 3 rows",
        "0123abcd",
        "drawn by this package",
        "rows that show a task's picture",
        "learning_rate",
        "0.0007",
        "lora.r",
        "length drift",
        "0.900",
        "PeftModel.from_pretrained",
        "harness eval --model",
        "3 leaked",
    ):
        assert part in text, part
    early = written[0].read_text()
    assert f"`{outcome.selection.model}` is the one to take" in early
    assert "0.200" in early
    assert "length drift" not in early


def test_the_header_is_what_the_hub_reads_and_names_are_no_markup(outcome: Outcome) -> None:
    text = card(outcome, outcome.checkpoints[0], Scores(Board(outcome.out / "board")))
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert (found["library_name"], found["pipeline_tag"]) == ("peft", "image-text-to-text")
    assert "# a\\|b\\*" in body
    assert "six \\| pairs" in body


def test_a_checkpoint_that_is_gone_gets_no_card(outcome: Outcome) -> None:
    (outcome.checkpoints[0].path / "adapter_config.json").unlink()
    outcome.checkpoints[0].path.rmdir()
    assert [path.parent.name for path in write_cards(outcome)] == ["checkpoint-10"]


def verdict(difference: float, p: float) -> PairedTest:
    score = 50.0 + difference
    return PairedTest(
        difference=difference, low=None, high=None, p=p, base=50.0, other=score, images=80, higher_is_better=True
    )


def test_a_better_checkpoint_is_required_by_verdict(outcome: Outcome) -> None:
    def judged(**found: PairedTest) -> Outcome:
        return replace(outcome, verdicts={"dpo against base": {f"{task}.f1": one for task, one in found.items()}})

    better, worse, same = verdict(9, 0.01), verdict(-9, 0.01), verdict(9, 0.5)
    assert unmet(judged(pope=better, mme=same)) == ""
    assert "is worse than scenes-base by mme.f1" in unmet(judged(pope=better, mme=worse))
    assert "better by none" in unmet(judged(pope=same, mme=same))
    assert unmet(judged(pope=better, mme=worse), ["pope"]) == ""
    assert "mme.f1 is not separable" in unmet(judged(pope=better, mme=same), ["pope.f1", "mme"])
    with pytest.raises(InputError, match=r"no verdict on 'chair'; known: .*pope\.f1"):
        unmet(judged(pope=better), ["chair"])
    assert "scenes_mme.accuracy is without a verdict" in unmet(judged(pope=better), ["pope", "scenes_mme"])


def test_a_task_names_its_headline_whatever_else_is_judged(outcome: Outcome) -> None:
    found = {"scenes_mme.score": verdict(-9, 0.01), "scenes_mme.accuracy": verdict(9, 0.01)}
    assert unmet(replace(outcome, verdicts={"dpo against base": found}), ["scenes_mme"]) == ""


def test_a_report_without_the_last_checkpoints_scores_says_so(outcome: Outcome) -> None:
    board = Board(outcome.out / "board")
    entries = [entry for entry in board.entries() if entry.model != outcome.last]
    lost = replace(
        outcome, entries=entries, verdicts={"dpo against base": {}}, failed={outcome.last: "OutOfMemoryError: a | b"}
    )
    text = render(lost)
    assert f"`{outcome.last}` against `scenes-base`: not scored." in text
    assert f"**Not scored: `{outcome.last}`** (OutOfMemoryError: a \\| b)" in text
    assert "## dpo against base\n\nNot scored." in text


def test_a_card_ranks_those_that_are_kept(outcome: Outcome) -> None:
    (outcome.checkpoints[0].path / "adapter_config.json").unlink()
    outcome.checkpoints[0].path.rmdir()
    assert "checkpoints that are kept it is the one to take" in write_cards(outcome)[0].read_text()


def test_what_got_worse_is_called_worse_whichever_way_it_went() -> None:
    stop = Stop(step=6, probe="scenes_chair.chair_i", base=10.0, value=20.0, p=0.001, looks=3)
    assert stop.words.startswith("scenes_chair.chair_i became worse, from 10 to 20, at step 6")


def test_a_probe_without_a_value_is_told_of(outcome: Outcome, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pope = registry().task("scenes_pope")
    board, checkpoint = Board(outcome.out / "board"), outcome.checkpoints[0]
    known = board.entries()[0]
    blank = replace(
        known, run="blank", model=checkpoint.path.as_posix(), task=pope.name, metric=pope.headline, value=None
    )
    board.add([blank], [])
    (checkpoint.path / "checkpoint.json").write_text('{"step": 5, "steps": 10}')
    job = Job(recipe=outcome.recipe, out=outcome.out, base_name="scenes-base", base="", dtype="float32", preferences=[])
    scoring = Scoring(board=board, tasks=[pope], judge=None, state=outcome.out / "watch")
    assert _ScoreBetweenSaves(job, scoring, [(pope.name, pope.headline)])(checkpoint)
    assert any(f"scenes_pope.{pope.headline} has no value for {checkpoint.path}" in line for line in caplog.messages)
