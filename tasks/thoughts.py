"""Models that think write their thoughts before the answer; what is scored, or taken for a verdict, is the answer.

    without_thoughts("<think>There or not?</think>\n\nNo")     # "No"
    without_thoughts("There or not?</think>\n\nNo")             # "No": the chat template had opened the thought
    without_thoughts("<think>There or")                        # None: the thought never ends
    answer_of(text, prompt)     # an Answer with `raw` and `reasoning`, or a FailedAnswer that says why there is none
    generated(text, prompt)     # the same of what a model has just written: without white space around it, too

A text without marks of thoughts stays as it is, to the last space, and so does one that only mentions them. A chat
template may name marks that no table has: `marks_in(template)` finds them, and everything here takes them as `own`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Final, TypeAlias

from tasks.answer import FailedAnswer, stripped, with_words

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""What opens and closes a thought."""

MARKS: Final[Pairs] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<rationale>", "</rationale>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<analysis>", "</analysis>"),
    ("<antthinking>", "</antthinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<ling_think>", "</ling_think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|think|>", "<|/think|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<|thought_start|>", "<|thought_end|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Qwen, DeepSeek, GLM, InternVL, MiniMax and many more; Gemini; Claude; Seed; LongCat; Ling; MiniMax; Mistral; Kimi;
OpenThinker; Command A; Gemma 4; MedGemma; gpt-oss."""
PHRASES: Final[Pairs] = (
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ("Thinking...\n", "...done thinking."),
)
"""The same in words (Granite, Apriel, Ollama): marks of a thought only where a text begins with the first of both."""
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
_FORMS: Final = (
    (r"<([a-z]\w*(?::\w+)?)>", "</{}>"),
    (r"\[([A-Z]\w*)\]", "[/{}]"),
    (r"◁(\w+)▷", "◁/{}▷"),
    (r"<\|(\w+)_start\|>", "<|{}_end|>"),
    (r"<\|(\w+)_begin\|>", "<|{}_end|>"),
    (r"<\|begin_of_(\w+)\|>", "<|end_of_{}|>"),
    (r"<\|start_(\w+)\|>", "<|end_{}|>"),
    (r"<\|(\w+)\|>", "<|/{}|>"),
)
"""The forms of marks that a chat template may name: what opens, and what closes by the same name."""
_OF_THOUGHTS: Final = re.compile(r"think|thought|reason|rational|reflect|scratch|ponder|deliberat|cogit", _FLAGS)
"""What is in the name of such a mark, or in that of the variable that a template puts between two of them."""
_MENTIONED_BY: Final = re.compile(
    r"(?:^|[\s(])(?:an?|the|tags?|tokens?|marks?|markers?|uses?|using|with|by|like|called|named|between|and|or"
    r"|writes?|says?|reads?)\s+$",
    _FLAGS,
)
"""What stands before a tag that a text only mentions."""
_MENTIONED_AS: Final = re.compile(r"\s+(?:tags?|tokens?|marks?|markers?|elements?)\b", _FLAGS)
"""What stands behind one."""
_PARTED_BY: Final = re.compile(r"[\s,;/&…]*(?:and|or|to|\.\.\.)?[\s,;/&…]*", _FLAGS)
"""What stands between two that are mentioned together."""
_QUOTES: Final = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}
_FENCE: Final = "```"
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


def marks_in(template: str | None) -> Pairs:
    """The pairs of marks that a chat template names and no table has.

    They are named alike, and their name says what they are, or the template puts a variable of such a name between
    them or cuts an answer at the one that closes: `content.split('</deep>')`.
    """
    if not template:
        return ()
    known = {opening.lower() for opening, _ in MARKS}
    found: list[tuple[str, str]] = []
    for form, closes in _FORMS:
        for match in re.finditer(form, template, _FLAGS):
            place = template.lower().find(closes.format(match[1]).lower())
            opening, closing = match[0], template[place : place + len(closes.format(match[1]))]
            if opening.lower() in known or place < 0:
                continue
            if _OF_THOUGHTS.search(match[1]) or _holds_thoughts(template, opening, closing):
                known.add(opening.lower())
                found.append((opening, closing))
    return tuple(found)


def _holds_thoughts(template: str, opening: str, closing: str) -> bool:
    """Whether a template writes thoughts between two marks, or cuts answers at the second."""
    if "tool" in opening.lower():
        return False
    between = re.search(f"{re.escape(opening)}([^<>]{{1,200}}?){re.escape(closing)}", template)
    cut = re.search(rf"split\(\s*['\"]{re.escape(closing)}", template)
    return cut is not None or (between is not None and _OF_THOUGHTS.search(between[1]) is not None)


def split_thoughts(text: str, prompt: str = "", *, own: Pairs = ()) -> Parts:
    """Answer and thoughts of `text`; `prompt` may have opened one at its end. `own`: marks that its template names."""
    begun = next((pair for pair in PHRASES if text.lstrip().startswith(pair[0])), None)
    if begun is not None:
        thought, closed, rest = text.partition(begun[1])
        thought = thought.lstrip().removeprefix(begun[0])
        return Parts(answer=_unwrap(rest) if closed else None, thoughts=(thought,))
    if (spoken := _WITHOUT_TAGS.match(text)) is not None:
        return Parts(answer=_unwrap(text[spoken.end() :]), thoughts=(spoken[1],))
    left, thoughts = _cut_out_thoughts(text, _find_opened(prompt, own), _rules_of(own))
    if left is None or thoughts is None:
        return Parts(answer=left if left is None else _unwrap_whole(left), thoughts=thoughts or ())
    return Parts(answer=_unwrap(left), thoughts=thoughts)


def has_thoughts(text: str, prompt: str = "", *, own: Pairs = ()) -> bool:
    """Whether there are thoughts in a text, or one that the prompt has opened."""
    parts = split_thoughts(text, prompt, own=own)
    return parts.answer is None or bool(parts.thoughts)


def without_thoughts(text: str, prompt: str = "", *, own: Pairs = ()) -> str | None:
    """The answer in `text`; None where a thought never ends. `prompt` may have opened one at its end."""
    return split_thoughts(text, prompt, own=own).answer


def closing_of(prompt: str, *, own: Pairs = ()) -> str:
    """What ends the thought that a prompt leaves open at its end; empty: it leaves none open."""
    opened = _find_opened(prompt, own)
    return "" if opened is None else (*MARKS, *own)[opened][1]


def answer_of(text: str, prompt: str = "", *, own: Pairs = ()) -> str:
    """What is scored of a model's text: an `Answer` that keeps the whole text as `raw`, a `FailedAnswer` where there
    are thoughts alone, else the text as it is."""
    if isinstance(text, FailedAnswer) or getattr(text, "raw", None) is not None:
        return text
    parts = split_thoughts(text, prompt, own=own)
    if parts.answer == text:
        return text
    reasoning = getattr(text, "reasoning", None) or parts.reasoning
    if not parts.answer:
        why = NEVER_ENDED if parts.answer is None else ONLY_THOUGHTS
        return FailedAnswer(why, raw=str(text), reasoning=reasoning)
    missing = OF_A_THOUGHT if getattr(text, "choices", None) else getattr(text, "no_choices", "")
    return with_words(text, parts.answer, choices={}, no_choices=missing, raw=str(text), reasoning=reasoning)


def generated(text: str, prompt: str = "", *, own: Pairs = ()) -> str:
    """What is scored of what a model, local or served, has just written: without its thoughts, and stripped."""
    return stripped(answer_of(text, prompt, own=own))


def is_decided(text: str, prompt: str, decided: Callable[[str], bool], *, own: Pairs = ()) -> bool:
    """Whether, by a task's rule, nothing more changes what is read from the answer; never before its thoughts ended."""
    answer = without_thoughts(text, prompt, own=own)
    if answer is None:
        return False
    answer = answer.strip()  # as it will be read
    begun = answer.lower()
    marks = [opening.lower() for opening, _ in (*MARKS, *own, *WRAPPERS)]
    marks += [opening.lower() for opening, _ in PHRASES] if len(begun) > 1 else []  # "H" may be a choice's letter
    may_be_a_mark = any(mark.startswith(begun) for mark in marks)
    in_tags = begun.startswith(tuple(opening.lower() for opening, _ in WRAPPERS))
    return not (may_be_a_mark or in_tags) and decided(answer)


def _find_opened(prompt: str, own: Pairs) -> int | None:
    """Which pair's thought a prompt leaves open at its end."""
    ending = prompt.rstrip().lower()
    pairs = (*MARKS, *own)
    return next((number for number, (opening, _) in enumerate(pairs) if ending.endswith(opening.lower())), None)


@dataclass(frozen=True)
class _Rules:
    """How marks are found; a pair's number is its place in the table, with a template's own behind it."""

    mark: re.Pattern[str]
    pair_of: dict[str, int]
    opening: frozenset[str]


@lru_cache(maxsize=64)
def _rules_of(own: Pairs) -> _Rules:
    pairs = (*MARKS, *own)
    return _Rules(
        mark=re.compile("|".join(re.escape(mark) for pair in pairs for mark in pair), _FLAGS),
        pair_of={mark.lower(): number for number, pair in enumerate(pairs) for mark in pair},
        opening=frozenset(opening.lower() for opening, _ in pairs),
    )


@dataclass(frozen=True)
class _Mark:
    """One mark of a text."""

    start: int
    end: int
    pair: int
    opens: bool
    name: str
    begins_line: bool
    """Whether white space alone is before it on its line."""
    in_code: bool
    """Whether it stands in a fenced block that comes behind some words."""


def _find_marks(text: str, rules: _Rules) -> list[_Mark]:
    """All marks of a text, in order."""
    found = []
    begins_line, in_code, met_words, read_to = True, False, False, 0
    for mark in rules.mark.finditer(text):
        before = text[read_to : mark.start()]
        *lines, behind = before.split("\n")
        begins_line, read_to = (begins_line or bool(lines)) and not behind.strip(), mark.start()
        met_words = met_words or bool(before.partition(_FENCE)[0].strip())
        in_code ^= before.count(_FENCE) % 2 == 1
        name = mark[0].lower()
        found.append(
            _Mark(
                start=mark.start(),
                end=mark.end(),
                pair=rules.pair_of[name],
                opens=name in rules.opening,
                name=name,
                begins_line=begins_line,
                in_code=in_code and met_words,
            )
        )
    return found


def _is_mentioned(text: str, mark: _Mark, following: _Mark | None) -> bool:
    """Whether a mark outside thoughts is one that the text only speaks of: in quotes or code, called a tag, or named
    together with the one that closes."""
    if _is_quoted(text, mark) or (mark.opens and text[mark.start - 1 : mark.start] in _QUOTES):
        return True
    in_code = mark.in_code and mark.opens
    if mark.begins_line and not in_code:
        return False
    if in_code or _MENTIONED_AS.match(text, mark.end):
        return True
    if _MENTIONED_BY.search(text[max(0, mark.start - 12) : mark.start]):
        return True
    together = following is not None and mark.opens and not following.opens and following.pair == mark.pair
    return together and following is not None and bool(_PARTED_BY.fullmatch(text, mark.end, following.start))


def _is_quoted(text: str, mark: _Mark) -> bool:
    """Whether a mark alone stands in quotes."""
    quote = _QUOTES.get(text[mark.start - 1 : mark.start])
    return quote is not None and text.startswith(quote, mark.end)


def _cut_out_thoughts(text: str, opened: int | None, rules: _Rules) -> tuple[str | None, tuple[str, ...] | None]:
    """The text without its thoughts (None: one never ends), and these (None: there are none).

    A thought begins where a line does, or where its end is marked, too: a tag that is only mentioned is text. A closing
    mark alone ends a thought that the chat template had opened.
    """
    pieces: list[str] = []
    thoughts: list[str] = []
    position, found, begun = 0, opened is not None, 0
    marks = _find_marks(text, rules)
    last_end = {mark.pair: mark.start for mark in marks if not mark.opens}
    mentioned = [0] * len(rules.pair_of)
    """Of each pair, the marks in the text that opened nothing and were not closed."""
    for mark, following in zip_longest(marks, marks[1:]):
        if opened is None and _is_mentioned(text, mark, following):
            if not _is_quoted(text, mark):
                mentioned[mark.pair] += 1 if mark.opens else -min(1, mentioned[mark.pair])
        elif mark.opens:
            if opened is None and (mark.begins_line or last_end.get(mark.pair, -1) > mark.start):
                pieces.append(text[position : mark.start])
                opened, begun = mark.pair, mark.end
        elif opened is None and mentioned[mark.pair]:
            mentioned[mark.pair] -= 1
        elif opened in (None, mark.pair):
            if opened is None:
                pieces.clear()
                begun = position
            thought = text[begun : mark.start]
            thoughts.append(_BETWEEN_CHANNELS.sub("", thought) if mark.name == _FINAL_CHANNEL else thought)
            opened, position, begun, found = None, mark.end, mark.end, True
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
