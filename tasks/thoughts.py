"""Models that think write their thoughts before the answer; what is scored, or taken for a verdict, is the answer.

    without_thoughts("<think>There or not?</think>\n\nNo")     # "No"
    without_thoughts("There or not?</think>\n\nNo")             # "No": the chat template had opened the thought
    without_thoughts("<think>There or")                        # None: the thought never ends
    answer_of(text, prompt)                                    # an Answer with `raw`, or a FailedAnswer that says why

A text without marks of thoughts stays as it is, to the last space.
"""

import re
from collections.abc import Callable
from typing import Final

from tasks.answer import Answer, FailedAnswer

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
NEVER_ENDED: Final = "its thoughts never ended: there is no answer (a higher limit of tokens leaves room for one)"
ONLY_THOUGHTS: Final = "no answer beside its thoughts"

_FLAGS: Final = re.IGNORECASE | re.ASCII
_MARK: Final = re.compile("|".join(re.escape(mark) for pair in MARKS for mark in pair), _FLAGS)
_PAIR_OF: Final = {mark.lower(): number for number, pair in enumerate(MARKS) for mark in pair}
_OPENING: Final = frozenset(opening.lower() for opening, _ in MARKS)
_WRAPPED: Final = tuple(
    re.compile(f"{re.escape(opening)}((?:(?!{re.escape(closing)}).)*)(?:{re.escape(closing)}|$)", _FLAGS | re.DOTALL)
    for opening, closing in WRAPPERS
)
_WITHOUT_TAGS: Final = re.compile(r"\s*analysis.*?assistantfinal", re.DOTALL)
"""What gpt-oss writes before its answer, where a server leaves out the tags."""


def without_thoughts(text: str, prompt: str = "") -> str | None:
    """The answer in `text`; None where a thought never ends. `prompt` may have opened one at its end."""
    begun = next((pair for pair in PHRASES if text.lstrip().startswith(pair[0])), None)
    if begun is not None:
        _, closed, rest = text.partition(begun[1])
        return _unwrap(rest) if closed else None
    if (spoken := _WITHOUT_TAGS.match(text)) is not None:
        return _unwrap(text[spoken.end() :])
    left, found = _cut_out_thoughts(text, _find_opened(prompt))
    if left is None:
        return None
    return _unwrap(left) if found else _unwrap_whole(text)


def answer_of(text: str, prompt: str = "") -> str:
    """What is scored of a model's text: an `Answer` that keeps the whole text as `raw`, a `FailedAnswer` where there
    are thoughts alone, else the text as it is."""
    if isinstance(text, FailedAnswer) or getattr(text, "raw", None) is not None:
        return text
    answer = without_thoughts(text, prompt)
    if answer == text:
        return text
    if not answer:
        return FailedAnswer(NEVER_ENDED if answer is None else ONLY_THOUGHTS)
    # Likelihoods of the first token are not taken over: they are those of a thought.
    return Answer(answer, cut=getattr(text, "cut", False), limited=getattr(text, "limited", False), raw=str(text))


def is_decided(text: str, prompt: str, decided: Callable[[str], bool]) -> bool:
    """Whether, by a task's rule, nothing more changes what is read from the answer; never before its thoughts ended."""
    answer = without_thoughts(text, prompt)
    if answer is None:
        return False
    begun = answer.lstrip().lower()
    marks = [opening.lower() for opening, _ in (*MARKS, *WRAPPERS)]
    marks += [opening.lower() for opening, _ in PHRASES] if len(begun) > 1 else []  # "H" may be a choice's letter
    may_be_a_mark = any(mark.startswith(begun) for mark in marks)
    in_tags = begun.startswith(tuple(opening.lower() for opening, _ in WRAPPERS))
    return not (may_be_a_mark or in_tags) and decided(answer)


def _find_opened(prompt: str) -> int | None:
    """Which pair's thought a prompt leaves open at its end."""
    ending = prompt.rstrip().lower()
    return next((number for number, (opening, _) in enumerate(MARKS) if ending.endswith(opening.lower())), None)


def _cut_out_thoughts(text: str, opened: int | None) -> tuple[str | None, bool]:
    """The text without its thoughts (None: one never ends), and whether there were any.

    A thought begins where a line does, or where its end is marked, too: a tag that is only mentioned is text. A closing
    mark alone ends a thought that the chat template had opened.
    """
    pieces: list[str] = []
    position, found = 0, opened is not None
    marks = [(mark, mark[0].lower(), _PAIR_OF[mark[0].lower()]) for mark in _MARK.finditer(text)]
    last_end = {number: mark.start() for mark, name, number in marks if name not in _OPENING}
    begins_line, read_to = True, 0
    for mark, name, number in marks:
        *lines, behind = text[read_to : mark.start()].split("\n")
        begins_line, read_to = (begins_line or bool(lines)) and not behind.strip(), mark.start()
        if name in _OPENING:
            if opened is None and (begins_line or last_end.get(number, -1) > mark.start()):
                pieces.append(text[position : mark.start()])
                opened = number
        elif opened in (None, number):
            if opened is None:
                pieces.clear()
            opened, position, found = None, mark.end(), True
    if opened is not None:
        return None, True
    return "".join([*pieces, text[position:]]), found


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
