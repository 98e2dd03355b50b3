"""Walk 1 with a model that answers from a script: what becomes of answers, failures and unread ratings."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM

from harness.engine.config import EngineConfig
from harness.evaluation.entries import Evaluation
from harness.evaluation.eval_settings import EvalSettings, on_board
from harness.evaluation.evaluate import evaluate
from harness.models.spec import ModelSpec, find
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from support.errors import JudgeError, NoJudgeError
from tasks.answer import FailedAnswer
from tasks.registry import registry
from tasks.scenes.judge import ExactJudge, answer_to
from tasks.scenes.language import YES_NO_SUFFIX, caption
from tasks.scenes.world import Scene


class Scripted(LM):
    """Answers each request by a function of the scene and the question; the edge at which tests replace a model."""

    MULTIMODAL = True

    def __init__(self, answer: Callable[[Scene, str], str]) -> None:
        super().__init__()
        self.answer = answer

    @property
    def tokenizer_name(self) -> str:
        return "scripted"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[-1]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [
            self.answer(
                Scene.from_json(request.args[2]["visual"][0].info["scene"]), request.args[0].removeprefix("<image>")
            )
            for request in requests
        ]

    def loglikelihood(self, requests: Any) -> Any:
        raise AssertionError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise AssertionError


def truth(scene: Scene, question: str) -> str:
    return answer_to(question.removesuffix(YES_NO_SUFFIX), scene) or caption(scene)


def scored(
    answer: Callable[[Scene, str], str], *, judge: Any = None, limit: int | None = 40, tasks: str = "scenes"
) -> Evaluation:
    spec = ModelSpec(name="scripted", pretrained="nowhere")
    return evaluate(
        spec,
        registry().expand([tasks]),
        judge or ExactJudge(),
        EvalSettings(limit=limit),
        load=lambda *_, **__: Scripted(answer),
    )


def entry(evaluation: Evaluation, name: str) -> Entry:
    task, _, metric = name.partition(".")
    return next(entry for entry in evaluation.entries if (entry.task, entry.metric) == (task, metric))


def test_a_perfect_model_is_perfect_on_every_task() -> None:
    evaluation = scored(truth, limit=None)
    assert entry(evaluation, "scenes_chair.chair_s").value == 0
    assert entry(evaluation, "scenes_chair.coverage").value == 100
    assert entry(evaluation, "scenes_chair.planted").value == 0
    assert entry(evaluation, "scenes_pope.f1").value == 100
    assert entry(evaluation, "scenes_mme.perception").value == 1200
    assert entry(evaluation, "scenes_mmhal.score").value == 6
    assert entry(evaluation, "scenes_mmhal.score").judge == "exact"
    assert entry(evaluation, "scenes_mme.accuracy").judge is None
    assert all(e.failed == e.unscored == 0 and e.limit is None for e in evaluation.entries)


def test_an_entry_says_what_was_scored() -> None:
    chair = entry(scored(truth), "scenes_chair.chair_s")
    assert (chair.samples, chair.limit, chair.unit, chair.higher_is_better, chair.headline) == (
        40,
        40,
        "%",
        False,
        True,
    )
    assert {"weights", "task", "torch", "lm-eval", "seed", "device"} <= chair.provenance.keys()


def test_a_failed_generation_is_no_empty_answer() -> None:
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


def test_a_failed_judge_call_leaves_the_sample_unscored() -> None:
    class Down(ExactJudge):
        def ask(self, prompt: str, image: Any = None, sampling: Any = None) -> str:
            if '"what does the sign read?"' in prompt:
                raise JudgeError("no reply")
            return super().ask(prompt, image)

    found = entry(scored(truth, judge=Down(), tasks="scenes_mmhal"), "scenes_mmhal.score")
    assert (found.unscored, found.failed, found.value) == (5, 0, 6.0)


def test_a_judged_task_without_a_judge_says_so() -> None:
    spec = ModelSpec(name="scripted", pretrained="nowhere")
    with pytest.raises(NoJudgeError):
        evaluate(spec, registry().expand(["scenes_mmhal"]), None, load=lambda *_, **__: Scripted(truth))


def test_another_split_asks_other_questions() -> None:
    spec = ModelSpec(name="scripted", pretrained="nowhere")
    tasks = registry().expand(["scenes_pope"])
    first, second = (
        evaluate(spec, tasks, None, EvalSettings(limit=8, split=split), load=lambda *_, **__: Scripted(truth))
        for split in (None, "tune")
    )
    assert {sample.id for sample in first.samples}.isdisjoint(sample.id for sample in second.samples)
    assert second.entries[0].provenance["split"] == "tune"


def test_what_stands_on_the_board_is_found_there_until_the_weights_change(random_model: Path, tmp_path: Path) -> None:
    spec, tasks, judge = find(str(random_model)), registry().expand(["scenes_pope"]), ExactJudge()
    board = Board(tmp_path / "board")
    settings = EvalSettings(limit=4)
    evaluation = evaluate(spec, tasks, judge, settings, name="m", load=lambda *_, **__: Scripted(truth))
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


def test_plain_lm_eval_gives_the_same_scores_and_leaves_what_needs_a_judge_unscored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tasks.registry import FOLDER

    def answer(scene: Scene, question: str) -> str:
        return "yes" if len(scene.things) % 2 else truth(scene, question)

    found = simple_evaluate(
        model=Scripted(answer),
        tasks=["scenes_pope", "scenes_chair", "scenes_mmhal"],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        limit=40,
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
