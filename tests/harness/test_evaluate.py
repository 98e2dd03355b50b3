"""From a scripted model to entries: scores, failed answers, answers without a rating."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.engine.config import EngineConfig
from harness.evaluation.entries import Evaluation
from harness.evaluation.eval_settings import EvalSettings, on_board
from harness.evaluation.evaluate import evaluate
from harness.evaluation.generate import drawn_from, load_tasks
from harness.models.spec import ModelSpec, find
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from support.errors import JudgeError, NoJudgeError
from tasks.answer import FailedAnswer
from tasks.registry import registry
from tasks.scenes.judge import ScenesJudge, answer_to
from tasks.scenes.language import YES_NO_SUFFIX, caption
from tasks.scenes.world import Scene


def truth(scene: Scene, question: str) -> str:
    return answer_to(question.removesuffix(YES_NO_SUFFIX), scene) or caption(scene)


Answer = Callable[[Scene, str], str]
SPEC = ModelSpec(name="scripted", pretrained="nowhere")


@pytest.fixture
def scripted(answering: Callable[..., Any]) -> Callable[[Answer], Any]:
    """Makes an LM that answers by a function of the scene and the question."""
    return lambda answer: answering(
        lambda prompt, pictures: answer(Scene.from_json(pictures[0].info["scene"]), prompt.removeprefix("<image>"))
    )


@pytest.fixture
def scored(scripted: Callable[[Answer], Any]) -> Callable[..., Evaluation]:
    def scored(answer: Answer, *, judge: Any = None, limit: int | None = 40, tasks: str = "scenes") -> Evaluation:
        settings = EvalSettings(limit=limit)
        found, lm = registry().expand([tasks]), scripted(answer)
        return evaluate(SPEC, found, judge or ScenesJudge(), settings, load=lambda *_, **__: lm)

    return scored


def entry(evaluation: Evaluation, name: str) -> Entry:
    task, _, metric = name.partition(".")
    return next(entry for entry in evaluation.entries if (entry.task, entry.metric) == (task, metric))


def test_a_perfect_model_is_perfect_on_every_task(scored: Callable[..., Evaluation]) -> None:
    evaluation = scored(truth, limit=None)
    perfect = {"chair_s": 0, "coverage": 100, "planted": 0}
    assert {name: entry(evaluation, f"scenes_chair.{name}").value for name in perfect} == perfect
    perfect = {"pope.f1": 100, "mme.perception": 1200, "mmhal.score": 6}
    assert {name: entry(evaluation, f"scenes_{name}").value for name in perfect} == perfect
    assert entry(evaluation, "scenes_mmhal.score").judge == "scenes"
    assert entry(evaluation, "scenes_mme.accuracy").judge is None
    assert all(e.failed == e.unscored == 0 and e.limit is None for e in evaluation.entries)


def test_an_entry_says_what_was_scored(scored: Callable[..., Evaluation]) -> None:
    chair = entry(scored(truth), "scenes_chair.chair_s")
    assert (chair.samples, chair.limit, chair.unit) == (40, 40, "%")
    assert (chair.higher_is_better, chair.headline) == (False, True)
    assert {"weights", "task", "torch", "lm-eval", "seed", "device"} <= chair.provenance.keys()


def test_a_failed_generation_is_no_empty_answer(scored: Callable[..., Evaluation]) -> None:
    def broken(scene: Scene, question: str) -> str:
        return FailedAnswer("image can't be read") if scene.background == "plain" else truth(scene, question)

    evaluation = scored(broken)
    for name in ("scenes_chair.chair_s", "scenes_mme.accuracy", "scenes_mmhal.score"):
        found = entry(evaluation, name)
        assert found.failed > 0
        assert found.unscored == 0
    assert entry(evaluation, "scenes_mme.accuracy").value == 100
    assert entry(evaluation, "scenes_mmhal.score").value == 6
    assert all((sample.answer is None) == (not sample.records) for sample in evaluation.samples)
    assert evaluation.lost > 0.1


def test_a_failed_judge_call_leaves_the_sample_unscored(scored: Callable[..., Evaluation]) -> None:
    class Down(ScenesJudge):
        def ask(self, prompt: str, image: Any = None, sampling: Any = None) -> str:
            if '"what does the sign read?"' in prompt:
                raise JudgeError("no reply")
            return super().ask(prompt, image)

    found = entry(scored(truth, judge=Down(), tasks="scenes_mmhal"), "scenes_mmhal.score")
    assert (found.unscored, found.failed, found.value) == (5, 0, 6.0)


def test_a_judged_task_without_a_judge_says_so() -> None:
    with pytest.raises(NoJudgeError):
        evaluate(SPEC, registry().expand(["scenes_mmhal"]), None)


def test_another_split_asks_other_questions(scripted: Callable[..., Any]) -> None:
    tasks = registry().expand(["scenes_pope"])
    first, second = (
        evaluate(SPEC, tasks, None, EvalSettings(limit=8, split=split), load=lambda *_, **__: scripted(truth))
        for split in (None, "tune")
    )
    assert {sample.id for sample in first.samples}.isdisjoint(sample.id for sample in second.samples)
    assert second.entries[0].provenance["split"] == "tune"


def test_what_stands_on_the_board_is_found_there_until_the_weights_change(
    random_model: Path, tmp_path: Path, scripted: Callable[..., Any]
) -> None:
    spec, tasks, judge = find(str(random_model)), registry().expand(["scenes_pope"]), ScenesJudge()
    board = Board(tmp_path / "board")
    settings = EvalSettings(limit=4)
    evaluation = evaluate(spec, tasks, judge, settings, name="m", load=lambda *_, **__: scripted(truth))
    board.add(evaluation.entries, evaluation.samples)
    assert on_board(board, spec, "m", tasks, judge, settings)
    for other in (EvalSettings(limit=5), EvalSettings(limit=4, full_answers=True), EvalSettings(limit=4, split="tune")):
        assert not on_board(board, spec, "m", tasks, judge, other)
    for engine in (EngineConfig(dtype="float16"), EngineConfig(suffix="Be brief."), EngineConfig(exact=True)):
        assert not on_board(board, spec, "m", tasks, judge, settings, engine)
    assert on_board(board, spec, "m", tasks, judge, settings, EngineConfig(batch_size=3))
    assert not on_board(board, spec, "other", tasks, judge, settings)
    assert not on_board(board, find("scenes-base"), "m", tasks, judge, settings)
    assert not on_board(board, spec, "m", registry().expand(["scenes"]), judge, settings)


def test_scores_of_answers_that_were_not_stripped_are_made_anew_where_a_parser_failed(
    random_model: Path, tmp_path: Path, scripted: Callable[..., Any]
) -> None:
    spec, tasks, settings = find(str(random_model)), registry().expand(["scenes_pope"]), EvalSettings(limit=4)
    evaluation = evaluate(spec, tasks, None, settings, name="m", load=lambda *_, **__: scripted(truth))
    assert {entry.provenance["answers"] for entry in evaluation.entries} == {"stripped"}
    for unparsed in (0, 1):
        board = Board(tmp_path / f"board-{unparsed}")
        before = {name: value for name, value in evaluation.entries[0].provenance.items() if name != "answers"}
        board.add([replace(entry, provenance=before, unparsed=unparsed) for entry in evaluation.entries], [])
        assert on_board(board, spec, "m", tasks, None, settings) is (unparsed == 0)


def test_plain_lm_eval_gives_the_same_scores_and_leaves_what_needs_a_judge_unscored(
    caplog: pytest.LogCaptureFixture, scored: Callable[..., Evaluation], scripted: Callable[..., Any]
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tasks.registry import FOLDER

    def answer(scene: Scene, question: str) -> str:
        return "yes" if len(scene.things) % 2 else truth(scene, question)

    loaded = load_tasks(registry().expand(["scenes_pope", "scenes_chair", "scenes_mmhal"]))
    found = simple_evaluate(
        model=scripted(answer),
        tasks=["scenes_pope", "scenes_chair", "scenes_mmhal"],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        samples={task: drawn_from(loaded[task], 40, 0) for task in loaded},
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert found is not None
    evaluation = scored(answer)
    for task in ("scenes_pope", "scenes_chair"):
        for metric in registry().task(task).metrics:
            value = found["results"][task][f"{metric},none"]
            assert entry(evaluation, f"{task}.{metric}").value == (None if math.isnan(value) else value)
    assert all(not line["metrics"] for line in found["samples"]["scenes_mmhal"])
    assert "scenes_mmhal: no judge was asked" in caplog.text
