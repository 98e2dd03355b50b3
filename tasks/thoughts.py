"""Models that think write their thoughts before the answer; what is scored, or taken for a verdict, is the answer.

    without_thoughts("<think>There or not?</think>\n\nNo")     # "No"
    without_thoughts("There or not?</think>\n\nNo")             # "No": the chat template had opened the thought
    without_thoughts("<think>There or")                        # None: the thought never ends
    answer_of(text, prompt)     # an Answer with `raw` and `reasoning`, or a FailedAnswer that says why there is none
    generated(text, prompt)     # the same of what a model has just written: without white space around it, too

A text without marks of thoughts stays as it is, to the last space.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tasks.answer import FailedAnswer, stripped, with_words

MARKS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<analysis>", "</analysis>"),
    ("<antthinking>", "</antthinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""What opens and closes a thought: Qwen, DeepSeek, GLM, InternVL, MiniMax and many more; Gemini; Claude; Seed; LongCat;
Mistral; Kimi; OpenThinker; Command A; Gemma 4; MedGemma; gpt-oss."""
PHRASES: Final = (
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
"""The same in words (Granite, Apriel): marks of a thought only where a text begins with the first of the two."""
WRAPPERS: Final = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<output>", "</output>"),
    ("<conclusion>", "</conclusion>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
)
"""What such models put around the answer itself."""
ENDS: Final = ("[END FINAL RESPONSE]", "<|return|>", "<|end|>")
"""What such models may write behind the answer."""
ROOM_FOR_THOUGHTS: Final = 4096
"""Tokens that thoughts have, on top of the limit of an answer, unless more or fewer are given."""
NEVER_ENDED: Final = "its thoughts never ended: there is no answer (a higher limit of tokens leaves room for one)"
ONLY_THOUGHTS: Final = "no answer beside its thoughts"
OF_A_THOUGHT: Final = "the first token is one of the model's thoughts"
"""Why there are no likelihoods of an answer's first token."""

_FLAGS: Final = re.IGNORECASE | re.ASCII
_MARK: Final = re.compile("|".join(re.escape(mark) for pair in MARKS for mark in pair), _FLAGS)
_PAIR_OF: Final = {mark.lower(): number for number, pair in enumerate(MARKS) for mark in pair}
_OPENING: Final = frozenset(opening.lower() for opening, _ in MARKS)
_WRAPPED: Final = tuple(
    re.compile(f"{re.escape(opening)}((?:(?!{re.escape(closing)}).)*)(?:{re.escape(closing)}|$)", _FLAGS | re.DOTALL)
    for opening, closing in WRAPPERS
)
_WITHOUT_TAGS: Final = re.compile(r"\s*analysis(.*?)assistantfinal", re.DOTALL)
"""What gpt-oss writes before its answer, where a server leaves out the tags."""
_FINAL_CHANNEL: Final = "<|channel|>final<|message|>"
_BETWEEN_CHANNELS: Final = re.compile(r"(?:<\|end\|>)?(?:<\|start\|>)?assistant\s*$")
"""What gpt-oss writes before that."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model's text consists of."""

    answer: str | None
    """None: a thought never ends, so that there is no answer."""
    thoughts: tuple[str, ...] = ()
    """Each without its marks."""

    @property
    def reasoning(self) -> str | None:
        """All thoughts, parted by empty lines; None: there are none."""
        found = [text for thought in self.thoughts if (text := thought.strip())]
        return "\n\n".join(found) if found else None


def split_thoughts(text: str, prompt: str = "") -> Parts:
    """Answer and thoughts of `text`; `prompt` may have opened one at its end."""
    begun = next((pair for pair in PHRASES if text.lstrip().startswith(pair[0])), None)
    if begun is not None:
        thought, closed, rest = text.partition(begun[1])
        own = thought.lstrip().removeprefix(begun[0])
        return Parts(answer=_unwrap(rest) if closed else None, thoughts=(own,))
    if (spoken := _WITHOUT_TAGS.match(text)) is not None:
        return Parts(answer=_unwrap(text[spoken.end() :]), thoughts=(spoken[1],))
    left, thoughts = _cut_out_thoughts(text, _find_opened(prompt))
    if left is None or thoughts is None:
        return Parts(answer=left if left is None else _unwrap_whole(left), thoughts=thoughts or ())
    return Parts(answer=_unwrap(left), thoughts=thoughts)


def has_thoughts(text: str, prompt: str = "") -> bool:
    """Whether there are thoughts in a text, or one that the prompt has opened."""
    parts = split_thoughts(text, prompt)
    return parts.answer is None or bool(parts.thoughts)


def without_thoughts(text: str, prompt: str = "") -> str | None:
    """The answer in `text`; None where a thought never ends. `prompt` may have opened one at its end."""
    return split_thoughts(text, prompt).answer


def closing_of(prompt: str) -> str:
    """What ends the thought that a prompt leaves open at its end; empty: it leaves none open."""
    opened = _find_opened(prompt)
    return "" if opened is None else MARKS[opened][1]


def answer_of(text: str, prompt: str = "") -> str:
    """What is scored of a model's text: an `Answer` that keeps the whole text as `raw`, a `FailedAnswer` where there
    are thoughts alone, else the text as it is."""
    if isinstance(text, FailedAnswer) or getattr(text, "raw", None) is not None:
        return text
    parts = split_thoughts(text, prompt)
    if parts.answer == text:
        return text
    reasoning = getattr(text, "reasoning", None) or parts.reasoning
    if not parts.answer:
        why = NEVER_ENDED if parts.answer is None else ONLY_THOUGHTS
        return FailedAnswer(why, raw=str(text), reasoning=reasoning)
    missing = OF_A_THOUGHT if getattr(text, "choices", None) else getattr(text, "no_choices", "")
    return with_words(text, parts.answer, choices={}, no_choices=missing, raw=str(text), reasoning=reasoning)


def generated(text: str, prompt: str = "") -> str:
    """What is scored of what a model, local or served, has just written: without its thoughts, and stripped."""
    return stripped(answer_of(text, prompt))


def is_decided(text: str, prompt: str, decided: Callable[[str], bool]) -> bool:
    """Whether, by a task's rule, nothing more changes what is read from the answer; never before its thoughts ended."""
    answer = without_thoughts(text, prompt)
    if answer is None:
        return False
    answer = answer.strip()  # as it will be read
    begun = answer.lower()
    marks = [opening.lower() for opening, _ in (*MARKS, *WRAPPERS)]
    marks += [opening.lower() for opening, _ in PHRASES] if len(begun) > 1 else []  # "H" may be a choice's letter
    may_be_a_mark = any(mark.startswith(begun) for mark in marks)
    in_tags = begun.startswith(tuple(opening.lower() for opening, _ in WRAPPERS))
    return not (may_be_a_mark or in_tags) and decided(answer)


def _find_opened(prompt: str) -> int | None:
    """Which pair's thought a prompt leaves open at its end."""
    ending = prompt.rstrip().lower()
    return next((number for number, (opening, _) in enumerate(MARKS) if ending.endswith(opening.lower())), None)


def _cut_out_thoughts(text: str, opened: int | None) -> tuple[str | None, tuple[str, ...] | None]:
    """The text without its thoughts (None: one never ends), and these (None: there are none).

    A thought begins where a line does, or where its end is marked, too: a tag that is only mentioned is text. A closing
    mark alone ends a thought that the chat template had opened.
    """
    pieces: list[str] = []
    thoughts: list[str] = []
    position, found = 0, opened is not None
    marks = [(mark, mark[0].lower(), _PAIR_OF[mark[0].lower()]) for mark in _MARK.finditer(text)]
    last_end = {number: mark.start() for mark, name, number in marks if name not in _OPENING}
    begins_line, read_to, begun = True, 0, 0
    for mark, name, number in marks:
        *lines, behind = text[read_to : mark.start()].split("\n")
        begins_line, read_to = (begins_line or bool(lines)) and not behind.strip(), mark.start()
        if name in _OPENING:
            if opened is None and (begins_line or last_end.get(number, -1) > mark.start()):
                pieces.append(text[position : mark.start()])
                opened, begun = number, mark.end()
        elif opened in (None, number):
            if opened is None:
                pieces.clear()
                begun = position
            thought = text[begun : mark.start()]
            thoughts.append(_BETWEEN_CHANNELS.sub("", thought) if name == _FINAL_CHANNEL else thought)
            opened, position, begun, found = None, mark.end(), mark.end(), True
    if opened is not None:
        return None, (*thoughts, text[begun:])
    return "".join([*pieces, text[position:]]), tuple(thoughts) if found else None


def _unwrap(text: str) -> str:
    """An answer after thoughts, without what the model put around it and behind it."""
    inside = next((found[-1][1] for pattern in _WRAPPED if (found := list(pattern.finditer(text)))), text)
    for end in ENDS:
        inside = inside.strip().removesuffix(end)
    return inside.strip()


def _unwrap_whole(text: str) -> str:
    """A text without thoughts: what is in the tags where all of it stands in them, else the text as it is."""
    for (_, closing), pattern in zip(WRAPPERS, _WRAPPED, strict=True):
        whole = pattern.fullmatch(text.strip())
        if whole is not None and whole[0].lower().endswith(closing.lower()):
            return whole[1].strip()
    return text
