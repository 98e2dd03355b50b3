"""What the engine does once, what it keeps, and what it says when something goes wrong. Equality by family:
test_architectures.py."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.engine import work_sharing
from harness.engine.config import EngineConfig
from harness.engine.greedy_decoding import NOT_FINITE, DecodingRules
from harness.engine.jobs import Hints
from harness.engine.lm import SharedImageLM
from harness.models.load import load
from harness.models.spec import find
from support.errors import ModelError, SettingError
from support.images import ImageRef, image_digest, keep, picture
from tasks.answer import Answer, FailedAnswer
from tasks.scenes.world import image_of
from tasks.thoughts import NEVER_ENDED
from tests.harness.lm_requests import GREEDY, ask, instance


def answers_to_all(lm: Any, **settings: Any) -> list[Any]:
    found: list[Any] = lm.generate_until(ask(lm, *ALL, **settings), disable_tqdm=True)
    return found


@pytest.fixture(scope="module")
def folder(random_model: Path) -> Path:
    return random_model


def shared(folder: Path, hints: Any = None, **engine: Any) -> Any:
    return load(find(str(folder)), EngineConfig(**{"dtype": "float32", "batch_size": 6, **engine}), hints=hints)


@pytest.fixture(scope="module")
def lm(folder: Path) -> Any:
    return shared(folder)


@pytest.fixture(scope="module")
def exact(folder: Path) -> Any:
    return shared(folder, exact=True)


IMAGES = [image_of(f"test-engine/{n}") for n in range(5)]
QUESTIONS = ("is there a red circle in the image?", "describe the image in detail.", "what is the background?")
ALL: list[tuple[list[Any], str]] = [([image], question) for image in IMAGES for question in QUESTIONS]


def test_the_same_question_about_the_same_image_is_answered_once(lm: Any, exact: Any) -> None:
    copies = [([images[0].copy()], question) for images, question in ALL]
    lm.counts.clear()
    answers = lm.generate_until(ask(lm, *ALL) + ask(lm, *copies, task="another"), disable_tqdm=True)
    assert (lm.counts["asked"], lm.counts["answered"]) == (30, 15)
    assert answers[:15] == answers[15:] == answers_to_all(exact)
    assert len(set(answers)) > 5


def test_several_images_repeated_images_and_empty_questions(lm: Any, exact: Any) -> None:
    a, b, c = IMAGES[:3]
    asked = [([a, b], QUESTIONS[0]), ([b, a], QUESTIONS[0]), ([a, a], QUESTIONS[1])]
    asked += [([a, b, c], ""), ([c], ""), ([a, b], QUESTIONS[1])]
    answers = lm.generate_until(ask(lm, *asked), disable_tqdm=True)
    assert answers == exact.generate_until(ask(exact, *asked), disable_tqdm=True)
    assert len(set(answers)) > 3


@pytest.mark.parametrize("size", (1, 2, 4, 64))
def test_the_batch_size_changes_no_answer(folder: Path, exact: Any, size: int) -> None:
    other = shared(folder, batch_size=size)
    assert answers_to_all(other) == answers_to_all(exact)


def test_worker_processes_and_features_on_disk_change_no_answer(folder: Path, exact: Any, tmp_path: Path) -> None:
    expected = answers_to_all(exact)
    first = shared(folder, workers=2, features=tmp_path)
    assert answers_to_all(first) == expected
    assert first.images_encoded == 5
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    second = shared(folder, features=tmp_path)
    assert answers_to_all(second) == expected
    assert second.images_encoded == 0


def test_an_answer_ends_when_it_is_decided_and_says_so(folder: Path, lm: Any) -> None:
    full = answers_to_all(lm)
    short = shared(folder, hints={"t": Hints(decided=_four)})
    cut = answers_to_all(short)
    for whole, part in zip(full, cut, strict=True):
        assert isinstance(part, Answer)
        assert whole.startswith(part)
        assert part[:4] == whole[:4]
        assert part.cut == (part != whole)
    assert any(part.cut for part in cut)
    assert short.counts["cut"] == sum(part.cut for part in cut)
    assert not any(answer.cut for answer in full)


def _four(text: str) -> bool:
    return len(text) >= 4


@pytest.mark.parametrize(
    ("written", "answer"), (("<think>Yes, of course</think>No, never", "No, n"), ("<think>Yes, of course", None))
)
def test_thoughts_are_no_answer_and_decide_nothing(
    written: str, answer: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # by the model, and kept
        lm = shared(folder, hints={"t": Hints(decided=_four, rule="four 1")}, answers=tmp_path / "answers.sqlite")
        monkeypatch.setattr(lm.rules, "_decode", lambda tokens: written[: len(tokens)])
        monkeypatch.setattr(lm.rules, "end_tokens", set)
        for found in answers_to_all(lm, max_gen_toks=len(written)):
            if answer is None:
                assert isinstance(found, FailedAnswer)
                assert (found.error, found.raw, found.reasoning) == (NEVER_ENDED, written, "Yes, of course")
            else:
                raw = written[: -len("ever")]
                assert (found, found.raw, found.reasoning, found.cut) == (answer, raw, "Yes, of course", True)
    assert lm.counts["answered"] == 0


def test_an_answer_is_stripped_before_it_is_decided_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for written, answer, cut in ((" \n No, never", "No, n", True), (" A\n", "A", False)):
        for _ in range(2):  # by the model, and kept
            lm = shared(folder, hints={"t": Hints(decided=_four, rule="four 1")}, answers=tmp_path / "answers.sqlite")
            monkeypatch.setattr(lm.rules, "_decode", lambda tokens, text=written: text[: len(tokens)])
            monkeypatch.setattr(lm.rules, "end_tokens", set)
            for found in answers_to_all(lm, max_gen_toks=len(written)):
                raw = written[: -len("ever")] if cut else written
                assert (found, found.raw, found.cut, found.reasoning) == (answer, raw, cut, None)


def test_marks_of_thoughts_that_are_special_tokens_are_decoded() -> None:
    class Tokenizer:
        all_special_tokens = ("</s>", "[THINK]", "[/THINK]")
        words = ("</s>", "[THINK]", "[/THINK]", "Yes", "No")

        def convert_tokens_to_ids(self, word: str) -> int:
            return self.words.index(word)

        def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
            return "".join(self.words[token] for token in tokens if token > 2 or not skip_special_tokens)

    rules = DecodingRules(None, Tokenizer(), default_new_tokens=8)
    assert rules.text_of([1, 3, 3, 2, 4, 0], ()) == "[THINK]YesYes[/THINK]No"
    assert rules.text_of([4, 3, 0], ["Y"]) == "No"


def test_choices_are_weighed_by_the_first_tokens_logits(folder: Path, exact: Any) -> None:
    weighing = shared(folder, hints={"t": Hints(choices=("yes", "no"))})
    answers = answers_to_all(weighing)
    ids = {name: weighing.decoder.first_tokens(name) for name in ("yes", "no")}
    assert all(ids.values())
    for request, answer in zip(ask(exact, *ALL), answers, strict=True):
        inputs = exact.processor_inputs(request.args[0], request.args[2]["visual"])
        with torch.no_grad():
            likely = exact.hf(**inputs).logits[0, -1].log_softmax(-1)
        for name, tokens in ids.items():
            assert math.isclose(answer.choices[name], float(likely[tokens].logsumexp(-1)), abs_tol=1e-4)


def test_a_broken_and_a_huge_image_fail_alone(lm: Any, exact: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    broken = picture(keep(ImageRef.at(tmp_path / "broken.png")))
    huge = Image.new("1", (20_000, 10_000))
    shown: list[list[Any]] = [[broken], [IMAGES[0]], [huge], [IMAGES[1], broken]]
    asked = [(images, QUESTIONS[0]) for images in shown]
    for model in (lm, exact):
        answers = model.generate_until(ask(model, *asked), disable_tqdm=True)
        assert [isinstance(answer, FailedAnswer) for answer in answers] == [True, False, True, True]
        assert "200000000 pixels" in answers[2].error or "20000 x 10000" in answers[2].error


def test_a_question_that_poses_as_an_image_fails_alone(lm: Any, exact: Any) -> None:
    for model in (lm, exact):
        contexts = [f"{model.image_token} what is {model.image_token} for?", f"{model.image_token} what is there?"]
        requests = [instance(text, [IMAGES[0]], number=at) for at, text in enumerate(contexts)]
        answers = model.generate_until(requests, disable_tqdm=True)
        assert [isinstance(answer, FailedAnswer) for answer in answers] == [True, False]


@pytest.mark.parametrize("settings", ({}, {"do_sample": True}, {"num_beams": 2}))
@pytest.mark.parametrize("engine", ({}, {"exact": True}, {"share": "answers"}))
@pytest.mark.parametrize("value", (math.nan, math.inf))
def test_weights_that_are_no_numbers_give_no_answers(
    folder: Path, tmp_path: Path, settings: dict[str, Any], engine: dict[str, Any], value: float
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = next(broken.glob("*.safetensors"))
    weights = load_file(file)
    save_file({name: torch.full_like(part, value) for name, part in weights.items()}, file, metadata={"format": "pt"})
    answers = answers_to_all(shared(broken, **engine), **settings)
    assert {type(answer) for answer in answers} == {FailedAnswer}
    assert {answer.error for answer in answers} == {NOT_FINITE}


def test_a_checkpoint_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "projector" in name)
    del weights[lost]
    save_file(weights, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing weights: .*projector"):
        shared(tmp_path / "part")


def test_a_palettes_colours_and_a_crop_are_other_images() -> None:
    red, blue = (Image.new("P", (8, 8)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    whole = IMAGES[0].copy()
    digests = [image_digest(image) for image in (red, blue, whole, whole.crop((0, 0, 30, 30)), whole.rotate(90))]
    assert len(set(digests)) == 5
    assert image_digest(whole.copy()) == image_digest(whole)


def test_features_do_not_pile_up(folder: Path) -> None:
    lean = shared(folder, kept_bytes=1, batch_size=3)
    jobs: list[Any] = []
    make = lean.jobs_of

    def noted(requests: Any) -> Any:
        jobs[:] = make(requests)
        return jobs

    lean.jobs_of = noted
    answers_to_all(lean)
    assert jobs
    assert not any(job.encoded for job in jobs)
    assert len(lean.encoder.kept) == 1


def test_a_picture_its_processor_refuses_fails_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shared(folder)
    process = other.encoder._process

    def picky(image: Image.Image) -> Any:
        if image.size == (2, 900):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return process(image)

    monkeypatch.setattr(other.encoder, "_process", picky)
    answers = other.generate_until(
        ask(other, ([Image.new("RGB", (2, 900))], "what?"), ([IMAGES[0]], "what?")), disable_tqdm=True
    )
    assert [isinstance(answer, FailedAnswer) for answer in answers] == [True, False]
    assert "aspect ratio" in answers[0].error


def test_the_same_prompt_with_two_settings(lm: Any, exact: Any) -> None:
    context = f"what is this? {lm.image_token}"
    requests = [instance(context, [IMAGES[0]], GREEDY | {"max_gen_toks": n}, n) for n in (3, 6)]
    assert lm.generate_until(requests, disable_tqdm=True) == exact.generate_until(requests, disable_tqdm=True)


def test_when_memory_runs_out_the_batch_is_halved(folder: Path, exact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = shared(folder, batch_size="auto")
    prefill, sizes = tight.runner.prefill, []

    def limited(rows: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prefill(rows, *rest, **more)

    monkeypatch.setattr(tight.runner, "prefill", limited)
    assert answers_to_all(tight) == answers_to_all(exact)
    assert max(sizes) > 2
    assert tight.counts["out of memory"] >= 1
    assert tight.scheduler.batch_size < 64


def test_sampled_answers_get_by_with_less_memory_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = shared(folder, batch_size="auto")
    plain, sizes = tight.generation._generate, []

    def limited(inputs: Any, jobs: Any) -> Any:
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(inputs, jobs)

    monkeypatch.setattr(tight.generation, "_generate", limited)
    answers = answers_to_all(tight, do_sample=True, temperature=0.5)
    assert all(not isinstance(answer, FailedAnswer) for answer in answers)
    assert sizes[0] > 2
    assert tight.scheduler.batch_size <= 2


@pytest.mark.parametrize(
    ("batch_size", "words"),
    (
        (6, "memory does not hold 6 questions at once: --batch-size auto"),
        ("auto", "does not hold one question"),
        (1, "does not hold one question"),
    ),
)
def test_where_memory_does_not_do_it_is_told_what_does(
    folder: Path, batch_size: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = shared(folder, batch_size=batch_size)

    def fail(*given: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tight.runner, "prefill", fail)
    with pytest.raises(ModelError, match=words):
        answers_to_all(tight)


@pytest.mark.parametrize("how", ({}, {"exact": True}), ids=("shared", "exact"))
def test_settings_of_decoding_in_a_checkpoint_decide_nothing_and_its_token_ids_do(
    folder: Path, exact: Any, tmp_path: Path, how: dict[str, Any]
) -> None:
    own = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "suppress_tokens": [*range(5, 40)], "num_beams": 3}
    own |= {"do_sample": True, "temperature": 0.01, "top_k": 1, "min_new_tokens": 30, "bad_words_ids": [[7], [8]]}
    shutil.copytree(folder, tmp_path / "m")
    file = tmp_path / "m/generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    lm = shared(tmp_path / "m", **how)
    assert answers_to_all(lm) == answers_to_all(exact)
    assert lm.rules.end_tokens() == exact.rules.end_tokens()
    told = lm.provenance()["generation settings not used"]
    assert "repetition_penalty 1.5" in told
    assert "no_repeat_ngram_size 2" in told
    assert "generation settings not used" not in exact.provenance()
    sampled = {lm.generate_until(ask(lm, ALL[0], do_sample=True, temperature=2.0))[0] for _ in range(6)}
    assert len(sampled) > 1  # its top_k would leave one


def test_a_penalty_of_the_user_goes_before_the_tasks_which_goes_before_none(folder: Path, exact: Any) -> None:
    ours, plain = shared(folder, repetition_penalty=1.5), shared(folder, repetition_penalty=1.5, exact=True)
    answers = answers_to_all(ours)
    assert answers == answers_to_all(plain) == answers_to_all(ours, repetition_penalty=1.1)
    assert answers == answers_to_all(exact, repetition_penalty=1.5)
    assert answers != answers_to_all(exact)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match="repetition_penalty"):
            EngineConfig(repetition_penalty=wrong)


def test_stop_sequences_cut_answers_as_lm_eval_does(lm: Any, exact: Any) -> None:
    answers = answers_to_all(lm, until=["left", "\n\n"])
    assert answers == answers_to_all(exact, until=["left", "\n\n"])
    assert not any("left" in answer for answer in answers)
    assert answers != answers_to_all(lm)


def test_an_answer_that_the_limit_of_tokens_ended_says_so(lm: Any, exact: Any) -> None:
    for model in (lm, exact):
        limited = answers_to_all(model, max_gen_toks=2)
        assert [getattr(answer, "limited", None) for answer in limited] == [True] * len(limited)
        ended = answers_to_all(model, max_gen_toks=2, until=[answer[:1] for answer in limited if answer])
        assert not any(getattr(answer, "limited", False) for answer in ended)


def test_a_suffix_stands_after_every_question_and_in_the_provenance(folder: Path) -> None:
    other = shared(folder, suffix=" answer in one word.")
    assert "answer in one word" in ask(other, ([IMAGES[0]], "what?"))[0].args[0]
    assert other.provenance()["prompt suffix"] == " answer in one word."


BIN = Path(sys.executable).parent
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def run_in(folder: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, env=ONE_THREAD, capture_output=True, text=True, check=True)


class TestAnswersKept:
    def test_a_second_run_asks_the_model_nothing(self, folder: Path, tmp_path: Path) -> None:
        first = shared(folder, answers=tmp_path / "answers.sqlite")
        expected = answers_to_all(first)
        second = shared(folder, answers=tmp_path / "answers.sqlite", batch_size=2)
        assert answers_to_all(second) == expected
        assert (second.counts["answered"], second.counts["from the store"], second.images_encoded) == (0, 15, 0)

    def test_an_answer_that_was_stopped_within_a_mark_is_asked_for_again(self, folder: Path, tmp_path: Path) -> None:
        hints = {"hints": {"t": Hints(decided=_four, rule="four")}}
        first = shared(folder, answers=tmp_path / "answers.sqlite", **hints)
        expected = answers_to_all(first)
        first.cache._store._run("UPDATE answers SET text = '\"<thi\"', cut = 1")  # as earlier versions did
        second = shared(folder, answers=tmp_path / "answers.sqlite", **hints)
        assert answers_to_all(second) == expected
        assert second.counts["from the store"] == 0

    def test_other_settings_weights_or_rules_are_other_answers(self, folder: Path, tmp_path: Path) -> None:
        store = tmp_path / "answers.sqlite"
        first = shared(folder, answers=store)
        answers_to_all(first)
        for changes in ({"hints": {"t": Hints(decided=_four, rule="four 1")}}, {"exact": True}, {"suffix": " now"}):
            other = shared(folder, answers=store, **changes)
            answers_to_all(other)
            assert other.counts["from the store"] == 0, changes
        longer = shared(folder, answers=store)
        answers_to_all(longer, max_gen_toks=11)
        assert longer.counts["from the store"] == 0

    def test_a_kill_loses_only_what_was_in_flight(self, tmp_path: Path) -> None:
        command = f"{BIN}/harness eval --model scenes-base --tasks scenes_chair --json --limit 120 --batch-size 4"
        killed = f"{command} --full-answers --out killed".split()
        with subprocess.Popen(killed, cwd=tmp_path, env=ONE_THREAD, stdout=subprocess.PIPE) as process:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and kept(tmp_path) < 20:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        before = kept(tmp_path)
        assert 20 <= before < 120
        done = run_in(tmp_path, killed)
        assert f"{before} from earlier runs" in done.stderr
        assert f"{120 - before} answered by the model" in done.stderr
        whole = run_in(tmp_path, f"{command} --full-answers --out whole --fresh".split())
        assert scores(done.stdout) == scores(whole.stdout)


def kept(folder: Path) -> int:
    path = folder / "runs" / "answers.sqlite"
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # not yet made
        return 0


def scores(printed: str) -> dict[str, float]:
    return {entry["metric"]: entry["value"] for entry in json.loads(printed)["entries"]}


class TestSharedOut:
    def test_work_is_balanced_and_the_same_everywhere(self) -> None:
        weights: dict[Any, int] = {f"image {n}": 4 + n % 7 for n in range(100)}
        whose = work_sharing.divide(weights, 3)
        assert whose == work_sharing.divide(dict(reversed(weights.items())), 3)
        loads = [sum(weights[name] for name, part in whose.items() if part == each) for each in range(3)]
        assert max(loads) - min(loads) <= 10

    def test_two_processes_score_as_one_does(self, tmp_path: Path) -> None:
        command = f"{BIN}/harness eval --model scenes-base --tasks scenes_pope,scenes_mme --limit 30 --json --fresh"
        one = run_in(tmp_path, f"{command} --out one".split())
        two = run_in(tmp_path, f"{BIN}/torchrun --nproc-per-node 2 --no-python {command} --out two".split())
        assert scores(one.stdout) == scores(two.stdout)
        assert "60 answered by the model" in two.stderr
        assert len(list((tmp_path / "two" / "board").glob("*.json"))) == 1


def test_sharing_is_stated(lm: Any, exact: Any) -> None:
    assert str(lm.sharing) == "answers, image features, prefix"
    assert str(exact.sharing) == "nothing (exact)"
    assert isinstance(lm, SharedImageLM)
