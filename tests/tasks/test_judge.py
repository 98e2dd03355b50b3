import json
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import JudgeError
from tasks.judges.protocol import (
    GREEDY,
    Judge,
    Sampling,
    ThreadedJudge,
    as_data,
    ask_all,
    current_judge,
    fill,
    use_judge,
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


def test_without_a_judge_asking_is_an_error_that_says_so() -> None:
    with pytest.raises(JudgeError, match="none is set"):
        current_judge()
    with pytest.raises(LookupError):
        ask_all([("a", None)])


def test_the_judge_is_set_inside_only_and_the_outer_one_comes_back() -> None:
    outer, inner = Echo(), Echo()
    with use_judge(outer):
        with use_judge(inner) as judge:
            assert current_judge() is judge is inner
        assert current_judge() is outer
    with pytest.raises(JudgeError):
        current_judge()


def test_replies_keep_the_order_and_a_failed_call_is_none() -> None:
    prompts = [str(i) for i in range(100)]
    prompts[40] = "down"
    with use_judge(Echo()):
        replies = ask_all((prompt, None) for prompt in prompts)
    assert replies == [None if prompt == "down" else f"reply to {prompt}" for prompt in prompts]


def test_nothing_to_ask_is_no_reply() -> None:
    with use_judge(Echo()):
        assert ask_all([]) == []


def test_calls_run_side_by_side() -> None:
    class Meeting(Echo):
        barrier = threading.Barrier(4)

        def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
            self.barrier.wait(timeout=20)
            return prompt

    with use_judge(Meeting()):
        assert ask_all([(str(i), None) for i in range(4)]) == ["0", "1", "2", "3"]


def test_a_mistake_in_a_judge_is_not_taken_for_a_failed_call() -> None:
    class Broken(Echo):
        def ask(self, prompt: str, image: "Image | None" = None, sampling: Sampling = GREEDY) -> str:
            raise ZeroDivisionError

    with use_judge(Broken()), pytest.raises(ZeroDivisionError):
        ask_all([("a", None)])


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
