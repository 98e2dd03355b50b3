"""Ratings: what a judge is asked about the answers to one instruction, and what its reply says (VLFeedback's protocol).

    questions("what is it?", ["a dog", "a cat"], "joint")    # one prompt for all three aspects; "per-aspect": three
    parse(reply, 4)["Visual Faithfulness"][2]                # (4, "the star is small") for Text 3; None: never a guess

A reply is read line by line: a heading names the aspect, one below it the text, and there stand its rating and the
reason. Judges vary the marks (bold for headings, "4/5", a code fence around all); they do not vary what is where. A
place with two ratings has none, and of a reply that comes back to a place it had left nothing is read: a judge that
quotes headings out of a rated text does not move any rating.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tasks
from tasks.judges.protocol import as_data, fill
from trainers.config.data import ASPECTS, RatingMode

Rating = tuple[int, str]
"""Points 1-5, and why."""

_EMPHASIS = str.maketrans("", "", "*_`")
_LEAD = re.compile(r"^[\s>]*(?:[-+•]\s+)?(#{0,6})\s*(?:[-+•]\s+)?(?:[0-9]{1,2}[.)]\s+)?")
_BOLD = re.compile(r"^[\s>]*(?:[-+•*]\s+)?(?P<mark>\*\*|__)[^*_].*(?P=mark)\s*:?\s*$")
_SKIPPED = re.compile(r"^[\s>]*(?:```.*|~~~.*|(?:[-*_]\s*){3,})$")
"""Fences and rules."""

_ASSESSMENT = re.compile(r"^(.{1,60}?) (assessments?|evaluations?|ratings?)$", re.IGNORECASE)
_ASPECTS = {
    "Helpfulness": re.compile(r"helpfulness", re.IGNORECASE),
    "Ethical Considerations": re.compile(r"ethical considerations?|ethics", re.IGNORECASE),
    "Visual Faithfulness": re.compile(r"(?:visual )?faithfulness", re.IGNORECASE),
}
_TEXT = re.compile(
    r"^(outputs? for )?text #?([0-9]{1,2})(?![0-9]) ?(:?)[ .)–—-]*(?:assessment:?|evaluation:?)?", re.IGNORECASE
)
_RATING = re.compile(r"^[(\[]?ratings? ?(?:\( ?1 ?(?:-|–|to) ?5 ?\))? ?[:=–—-] ?", re.IGNORECASE)
_VALUE = re.compile(
    r"[\[<(\"']?([1-5])(?:\.0)?[\]>\"']?(?: ?(?:/|out of) ?5)?(?:[ .,;)\]>]*$|[ .,;)\]>|–—-]*(?=rationale\b))",
    re.IGNORECASE,
)
_RATIONALE = re.compile(r"^[\s>]*(?:[-+•]\s+)?#{0,6}[\s*_]*rationale[\s*_]*(?:[:=–—][\s*_]*|\s-\s+|$)", re.IGNORECASE)


def parse(reply: str, texts: int, aspects: Sequence[str] = ASPECTS) -> dict[str, list[Rating | None]]:
    """Aspect -> rating of each text; None where the reply gives no single one in its place.

    `aspects` are those asked for; where it was one alone, the reply may leave out its heading.
    """
    places = _lines_by_place(re.split(r"\r\n|\r|\n", reply), aspects[0] if len(aspects) == 1 else None)
    return {aspect: [_read_rating(places.get((aspect, k), [])) for k in range(1, texts + 1)] for aspect in aspects}


def _lines_by_place(lines: Sequence[str], aspect: str | None) -> dict[tuple[str, int], list[str]]:
    """(aspect, text) -> the lines below its heading; nothing where one is opened twice, or under an aspect that is none
    of ours.

    All lines up to the next place are the last one's, those below a heading that is none of ours too: a second rating
    there may be the real one, after a quote that looked like a heading. `aspect`: open from the start.
    """
    places: dict[tuple[str, int], list[str]] = {}
    last: tuple[str, int] | None = None
    for line in lines:
        if _SKIPPED.match(line):
            continue
        words, marked = _strip_marks(line), _is_marked(line)
        text = _parse_text_heading(words, marked)
        if text is not None:
            number, line = text
            if aspect is None:
                continue
            if (aspect, number) != last or _has_rating(places[last]):
                if (aspect, number) in places or not aspect:
                    return {}
                last = aspect, number
                places[last] = []
        elif (named := _parse_aspect_heading(words, marked)) is not None:
            aspect = named
            continue
        if last is not None:
            places[last].append(line)
    return places


def _strip_marks(line: str) -> str:
    """A line without list marks, `#`, emphasis and superfluous spaces."""
    plain = line.translate(_EMPHASIS)
    lead = _LEAD.match(plain)
    return " ".join(plain[lead.end() if lead else 0 :].split())


def _is_marked(line: str) -> bool:
    """Whether a line is marked as a heading: by `#`, or by being bold as a whole."""
    lead = _LEAD.match(line)
    return bool(lead and lead.group(1)) or _BOLD.match(line) is not None


def _parse_aspect_heading(words: str, marked: bool) -> str | None:
    """The aspect a heading opens, "" for one that is none of ours ("Overall Assessment"), None where the line opens
    none."""
    words = words.rstrip(" #:.")
    of = _ASSESSMENT.match(words)
    if not marked and not (of and of.group(2).lower() == "assessment"):
        return None
    name = of.group(1) if of else words
    known = next((aspect for aspect, pattern in _ASPECTS.items() if pattern.fullmatch(name)), None)
    return known if known or not of or not marked else ""


def _parse_text_heading(words: str, marked: bool) -> tuple[int, str] | None:
    """The text a heading opens and what else stands on the line, which can only be its rating; None where the line
    opens none."""
    text = _TEXT.match(words)
    if text is None:
        return None
    rest = words[text.end() :].strip(" #")
    written = bool(marked or text.group(1) or text.group(3))
    return (int(text.group(2)), rest) if _RATING.match(rest) or (written and not rest) else None


def _has_rating(lines: Sequence[str]) -> bool:
    return any(_RATING.match(_strip_marks(line)) for line in lines)


def _read_rating(lines: Sequence[str]) -> Rating | None:
    """The one rating in the lines of a place, and all the rest as its reason."""
    values, reasons = [], []
    for line in lines:
        words = _strip_marks(line)
        rating = _RATING.match(words)
        if rating is None:
            reasons.append(_RATIONALE.sub("", line))
            continue
        value = _VALUE.match(words, rating.end())
        values.append(int(value.group(1)) if value else None)
        if value:
            reasons.append(_RATIONALE.sub("", words[value.end() :]))
    if len(values) != 1 or values[0] is None:
        return None
    return values[0], "\n".join(reasons).strip()


@cache
def _read_template(name: str) -> str:
    return (Path(tasks.__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8").strip()


@cache
def rubric(aspect: str) -> str:
    """What an aspect means and what its points stand for: its paragraph in the joint prompt."""
    return next(part for part in _read_template("vlfeedback").split("\n\n") if part.startswith(f"{aspect}:"))


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def questions(instruction: str, texts: Sequence[str], mode: RatingMode = "joint") -> dict[tuple[str, ...], str]:
    """What the judge is asked about two texts or more, by the aspects each prompt asks for."""
    count = len(texts)
    others = [str(k) for k in range(2, count + 1)]
    slots = {
        "number": _NUMBERS[count] if count < len(_NUMBERS) else str(count),
        "others": " and ".join([", ".join(others[:-1]), others[-1]] if len(others) > 1 else others),
        "data": as_data({"instruction": instruction, "texts": list(texts)}),
    }
    if mode == "joint":
        return {ASPECTS: fill(_read_template("vlfeedback"), **slots)}
    return {
        (aspect,): fill(_read_template("vlfeedback_aspect"), aspect=aspect, rubric=rubric(aspect), **slots)
        for aspect in ASPECTS
    }
