"""Thoughts before an answer: every family's marks, thoughts that never end, and texts that only look like some."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answer import Answer, FailedAnswer
from tasks.thoughts import (
    MARKS,
    NEVER_ENDED,
    OF_A_THOUGHT,
    ONLY_THOUGHTS,
    PHRASES,
    WRAPPERS,
    answer_of,
    closing_of,
    generated,
    has_thoughts,
    is_decided,
    marks_in,
    split_thoughts,
    without_thoughts,
)


@pytest.mark.parametrize(("opening", "closing"), (*MARKS, *PHRASES))
def test_every_family_s_thoughts_are_left_out(opening: str, closing: str) -> None:
    assert without_thoughts(f"{opening}\nYes or no? Yes...\n{closing}\n\nNo") == "No"
    assert without_thoughts(f"\n {opening}Yes{closing}No.\n") == "No."
    assert without_thoughts(f"{opening} yes, the answer is yes") is None
    assert without_thoughts(f"{opening}{closing}") == ""


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_a_closing_mark_alone_ends_what_the_template_had_opened(opening: str, closing: str) -> None:
    assert without_thoughts(f"Yes, it seems.{closing}\nNo") == "No"
    assert without_thoughts("Yes, it seems", prompt=f"USER: Is it?\nASSISTANT: {opening}\n") is None
    assert without_thoughts(f"Yes{closing} No", prompt=f"ASSISTANT: {opening}\n") == "No"
    assert without_thoughts("No", prompt=f"ASSISTANT: {opening}\n\n{closing}\n\n") == "No"


@pytest.mark.parametrize(("opening", "closing"), WRAPPERS)
def test_what_stands_around_an_answer_is_left_out(opening: str, closing: str) -> None:
    assert without_thoughts(f"{opening}No{closing}") == "No"
    assert without_thoughts(f"<think>Yes</think>\n{opening} No {closing}\n") == "No"
    assert without_thoughts(f"<think>Yes</think>So it is {opening}No{closing}.") == "No"
    assert without_thoughts(f"<think>Yes</think>{opening}No") == "No"
    beside = f"It reads {opening}No{closing} there"
    assert without_thoughts(beside) == beside


@pytest.mark.parametrize(
    ("text", "answer"),
    (
        ("<THINK>yes</Think>No", "No"),
        ("<think>a</think>No<think>yes", "No<think>yes"),
        ("<think>a</think>No\n<think>yes", None),
        ("<think>a</think>No\n<think>yes</think>", "No"),
        ("No <think>yes</think> at all", "No  at all"),
        ("<think>a <think> b</think> c</think>No", "No"),
        ("<think>a</think>b</think>No", "No"),
        ("<think>the tag [THINK] is Mistral's</think>No", "No"),
        ("analysisWe look. Yes?assistantfinalNo", "No"),
        (
            "<|channel|>analysis<|message|>Yes?<|end|><|start|>assistant<|channel|>final<|message|>No<|return|>",
            "No",
        ),
        ("<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>Yes</REASONING><CONCLUSION>No</CONCLUSION>", "No"),
        ("Here are my reasoning steps:\nYes\n[BEGIN FINAL RESPONSE]\nNo\n[END FINAL RESPONSE]", "No"),
    ),
)
def test_forms_that_are_met(text: str, answer: str | None) -> None:
    assert without_thoughts(text) == answer


@pytest.mark.parametrize(
    "text",
    (
        "",
        " ",
        "No\n",
        "  Yes, it is. ",
        "I think it is red",
        "The tag <think> opens a thought",
        "a < b and b > c",
        "[THIN] ice",
        "Here is my response: yes",
        "Analysis of the picture: final",
        "<b>bold</b>",
        "1. <answer> 2. <response>",
        "◁ left of ▷",
        "Wrap it in <think> and </think> tags.",
        "Use <rationale></rationale> or <think>...</think>, please.",
        "The tag <think> opens a thought. The tag </think> closes it. Yes.",
        "Close it with </think>, please",
        "No: the </think> tag is missing",
        "It says `<think>yes</think>`, so no",
        "The sign reads “<thought>” and “</thought>”",
        "It is code:\n```html\n<think>\nx\n</think>\n```\nNo",
        "Thinking... it may be a dog",
        "The man waits.\nThinking...\nno",
    ),
)
def test_a_text_without_thoughts_stays_as_it_is(text: str) -> None:
    assert without_thoughts(text) == text
    assert answer_of(text) is text


@pytest.mark.parametrize(
    "text",
    (
        "<think>The tag </think> ends it</think>No",
        "It says `<think>`.</think>No",
        "<think>```\n<think>\n```</think>No",
        "Use the tag.\n</think>\nNo",
        "Yes it is. </think> No",
    ),
)
def test_a_thought_that_speaks_of_tags_is_one(text: str) -> None:
    assert without_thoughts(text) == "No"
    assert has_thoughts(text)


TEMPLATE = """{%- if '</deep>' in content %}{%- set own = content.split('</deep>')[0].split('<deep>')[-1] %}{% endif %}
{{ '<|MUSE_START|>' + reasoning + '<|MUSE_END|>' }}{{ '[RATIONALE]' }}{{ '[/RATIONALE]' }}
<tool_call>{{ thought }}</tool_call><b>{{ content }}</b><my:thinking></my:thinking><think></think><lone_think>"""


def test_a_template_names_marks_of_its_own() -> None:
    own = marks_in(TEMPLATE)
    assert own == (
        ("<deep>", "</deep>"),
        ("<my:thinking>", "</my:thinking>"),
        ("[RATIONALE]", "[/RATIONALE]"),
        ("<|MUSE_START|>", "<|MUSE_END|>"),
    )
    assert (marks_in(None), marks_in("{{ content }}")) == ((), ())
    for opening, closing in own:
        text = f"{opening}Yes?{closing}\nNo"
        assert without_thoughts(text) == text
        assert generated(text, own=own) == "No"
        assert split_thoughts(text, own=own).reasoning == "Yes?"
        assert has_thoughts("Yes", f"ASSISTANT: {opening}\n", own=own)
        assert closing_of(f"ASSISTANT: {opening}\n", own=own) == closing
        assert not is_decided(f"{opening}Yes", "", lambda answer: True, own=own)


def test_an_answer_keeps_all_that_was_written() -> None:
    raw = "<think>Yes?</think>\nNo"
    given = Answer(raw, choices={"yes": -0.1, "no": -3.0}, limited=True)
    found = answer_of(given)
    assert isinstance(found, Answer)
    assert (found, found.raw, found.limited, dict(found.choices)) == ("No", raw, True, {})
    assert (found.reasoning, found.no_choices) == ("Yes?", OF_A_THOUGHT)
    assert answer_of(found) is found
    again = copy.copy(found)  # as between processes
    assert (again, again.raw, again.limited) == ("No", raw, True)
    for text, why in (("<think>Yes", NEVER_ENDED), ("<think>Yes</think>\n", ONLY_THOUGHTS)):
        failed = answer_of(text)
        assert isinstance(failed, FailedAnswer)
        assert failed.error == why
    assert answer_of(failed) is failed


@pytest.mark.parametrize(("opening", "closing"), (*MARKS, *PHRASES))
def test_thoughts_are_told_without_their_marks(opening: str, closing: str) -> None:
    assert split_thoughts(f"{opening}\nYes?\n{closing}\n\nNo").reasoning == "Yes?"
    assert split_thoughts(f"{opening} and so on").reasoning == "and so on"
    assert split_thoughts(f"{opening}{closing}No").reasoning is None
    assert split_thoughts("No").reasoning is None


@pytest.mark.parametrize(
    ("text", "prompt", "reasoning"),
    (
        ("<think>a</think>No\n<think>b</think>", "", "a\n\nb"),
        ("Yes?</think>No", "", "Yes?"),
        ("Yes?</think>No", "ASSISTANT: <think>\n", "Yes?"),
        ("Yes? and", "ASSISTANT: <think>\n", "Yes? and"),
        ("analysisWe look.assistantfinalNo", "", "We look."),
        ("<|channel|>analysis<|message|>Yes?<|end|><|start|>assistant<|channel|>final<|message|>No", "", "Yes?"),
    ),
)
def test_forms_of_thoughts_that_are_met(text: str, prompt: str, reasoning: str) -> None:
    assert split_thoughts(text, prompt).reasoning == reasoning


def test_what_a_model_has_just_written_is_stripped() -> None:
    found = generated(Answer(" A\n", choices={"A": -0.1}, cut=True))
    assert isinstance(found, Answer)
    assert (found, found.raw, found.cut, dict(found.choices)) == ("A", " A\n", True, {"A": -0.1})
    assert generated(found) is found
    assert generated("A") == "A"
    assert answer_of(" A\n") == " A\n"  # of a file
    empty = generated(" \n")
    assert not isinstance(empty, FailedAnswer)
    assert empty == ""
    thought = generated("<think>b</think>\n A ")
    assert (thought, getattr(thought, "raw", None)) == ("A", "<think>b</think>\n A ")


@pytest.mark.parametrize(
    ("text", "decided"),
    (
        ("", False),
        ("<", False),
        ("<thi", False),
        ("<think>Yes it", False),
        ("<think>Yes</think>", False),
        ("<think>Yes</think>\n<ans", False),
        ("<think>Yes</think>No, ", True),
        ("<answer>No i", False),
        ("<answer>No it</answer>", True),
        ("[THINK]Yes and", False),
        ("Here", False),
        ("Hereby", True),
        ("No, ", True),
    ),
)
def test_nothing_is_decided_before_the_thoughts_end(text: str, decided: bool) -> None:
    assert is_decided(text, "USER: Is it? ASSISTANT:", lambda answer: len(answer) > 2) is decided


def test_a_thought_of_the_template_is_not_decided_on() -> None:
    assert not is_decided("Yes, so", "ASSISTANT: <think>\n", lambda answer: True)
    assert is_decided("Yes</think>No", "ASSISTANT: <think>\n", lambda answer: answer == "No")


PIECES = st.lists(
    st.one_of(st.sampled_from([mark for pair in (*MARKS, *PHRASES, *WRAPPERS) for mark in pair]), st.text(max_size=5)),
    max_size=12,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(PIECES, PIECES)
def test_any_text_gives_a_part_of_itself_or_nothing(text: str, prompt: str) -> None:
    answer = without_thoughts(text, prompt)
    assert answer is None or set(answer) <= set(text)
    assert is_decided(text, prompt, lambda answer: True) in (True, False)
    found = answer_of(text)
    assert found == answer_of(found) or isinstance(found, FailedAnswer)


def test_a_long_text_of_marks_is_read_at_once() -> None:
    text = "x<think>" * 100_000
    assert without_thoughts(text) == text
    assert without_thoughts(text + "</think>No") == "xNo"
