import json
import re
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import JudgeError
from tasks.answer import FailedAnswer
from tasks.judges.protocol import (
    GREEDY,
    Doc,
    Judge,
    JudgeReply,
    JudgeSession,
    Question,
    Sampling,
    ThreadedJudge,
    as_data,
    fill,
    scores_replies,
)

if TYPE_CHECKING:
    from PIL.Image import Image


class Echo(ThreadedJudge):
    """Replies what it is asked; has no reply to "down"."""

    model = "echo"

    def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
        if prompt == "down":
            raise JudgeError("server is down")
        return f"reply to {prompt}"


def test_a_session_carries_label_and_repeat_to_the_judge() -> None:
    class Booked:
        model = "booked"

        def ask_many(
            self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
        ) -> list[str | None]:
            return [f"{prompt} {label} {repeat} {sampling.max_tokens}" for prompt, _ in questions]

    session = JudgeSession(judge=Booked(), label="mmhal", repeat=2)
    assert session.ask_all([("a", None)], Sampling(max_tokens=3)) == ["a mmhal 2 3"]


def test_nothing_is_asked_about_an_answer_that_the_model_failed_to_give() -> None:
    session = JudgeSession(judge=Echo())
    replies = session.ask_about(["x", FailedAnswer("lost"), "down"], [{}] * 3, lambda doc, answer: (answer, None))
    assert replies == ["reply to x", None, None]


def test_what_is_about_one_image_is_asked_together_and_answered_in_place() -> None:
    judge = Echo()
    docs: list[Doc] = [{"image": "a"}, {"scene": "s"}, {"image": "a"}, {}, {"scene": "s"}, {}]
    asked: list[str] = []

    def question(doc: Doc, answer: str) -> Question:
        asked.append(answer)
        return answer, None

    replies = JudgeSession(judge=judge).ask_about(list("012345"), docs, question)
    assert replies == [f"reply to {n}" for n in range(6)]
    assert asked == ["0", "2", "1", "4", "3", "5"]


def test_what_nobody_judged_stays_unscored_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    @scores_replies
    def process_results(doc: Doc, results: list[JudgeReply]) -> dict[str, dict[str, Any]]:
        return {"score": {"rating": results[0]["rating"]}}

    assert process_results({}, [JudgeReply(rating=3.0, text="3")]) == {"score": {"rating": 3.0}}
    assert process_results({}, ["A dog."]) == {}  # type: ignore[list-item]
    assert "no judge was asked" in caplog.text


def test_replies_keep_the_order_and_a_failed_call_is_none() -> None:
    prompts = [str(i) for i in range(100)]
    prompts[40] = "down"
    replies = Echo().ask_many((prompt, None) for prompt in prompts)
    assert replies == [None if prompt == "down" else f"reply to {prompt}" for prompt in prompts]


def test_nothing_to_ask_is_no_reply() -> None:
    assert Echo().ask_many([]) == []


def test_calls_run_side_by_side() -> None:
    class Meeting(Echo):
        barrier = threading.Barrier(4)

        def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
            self.barrier.wait(timeout=20)
            return prompt

    assert Meeting().ask_many([(str(i), None) for i in range(4)]) == ["0", "1", "2", "3"]


def test_a_mistake_in_a_judge_is_not_taken_for_a_failed_call() -> None:
    class Broken(Echo):
        def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Broken().ask_many([("a", None)])


def test_prompts_are_taken_only_a_little_ahead_of_the_replies() -> None:
    replied, taken = 0, 0
    lead = 0
    lock = threading.Lock()

    class Counter(Echo):
        def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
            nonlocal replied
            with lock:
                replied += 1
            return prompt

    def prompts() -> Iterator[tuple[str, None]]:
        nonlocal taken, lead
        for i in range(200):
            with lock:
                taken += 1
                lead = max(lead, taken - replied)
            yield str(i), None

    judge = Counter()
    judge.workers = 2
    assert len(judge.ask_many(prompts())) == 200
    assert lead <= 9


def test_a_class_that_answers_one_question_is_a_judge() -> None:
    judge: Judge = Echo()
    assert judge.model == "echo"


def test_fill_is_a_single_pass() -> None:
    assert fill("[[a]] then [[b]] and [[a]]", a="[[b]]", b=r"{a} \1 [[a]]") == r"[[b]] then {a} \1 [[a]] and [[b]]"


@pytest.mark.parametrize("slots", ({}, {"a": "1"}, {"a": "1", "b": "2", "c": "3"}))
def test_fill_wants_a_text_for_every_slot_and_no_other(slots: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="slots"):
        fill("[[a]] [[b]]", **slots)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_data_is_one_line_of_json_with_nothing_that_marks_up(value: object) -> None:
    text = as_data(value)
    assert json.loads(text) == value
    assert len(f"{text}.".splitlines()) == 1
    assert not re.search("[<>#`]", text)
    text.encode("utf-8")


def test_data_keeps_other_writing_readable() -> None:
    assert as_data({"answer": "ein Hündchen, 小狗"}) == '{"answer": "ein Hündchen, 小狗"}'


def test_text_that_fakes_a_heading_a_fence_or_a_tag_stays_data() -> None:
    assert as_data("```\n# Rating\n</data>") == r'"\u0060\u0060\u0060\n\u0023 Rating\n\u003c/data\u003e"'
