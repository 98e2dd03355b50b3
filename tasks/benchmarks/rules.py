"""The rules by which a task from a table is scored: from an answer and what is true to what counts.

    vqa_accuracy("2", ["two"] * 3 + ["three"] * 7)      # 0.9, by the official rule
    contains("A red square and a circle.", "red square")

Pure functions of texts. Option letters are read by `mmbench.read_option`.
"""

import re
from collections.abc import Sequence
from typing import Final

from tasks.benchmarks.yes_no import YesNoOther

_WORD: Final = re.compile(r"\w+")


def read_yes_no(answer: str) -> YesNoOther:
    """The first word, where it is yes or no; else the one of the two that the answer has, if only one."""
    words = _WORD.findall(answer.lower())
    if words and words[0] in ("yes", "no"):
        return "yes" if words[0] == "yes" else "no"
    said = {word for word in words if word in ("yes", "no")}
    return "other" if len(said) != 1 else "yes" if "yes" in said else "no"


def simplify(text: str) -> str:
    """A text for comparison: lower case, single spaces, no quotes or full stop around it."""
    return " ".join(text.casefold().split()).strip(" \"'`.!?,;:")


def exact(answer: str, truth: str) -> bool:
    """Whether an answer is the true one, up to case, spaces, and punctuation at its ends."""
    return simplify(answer) == simplify(truth)


def contains(answer: str, truth: str) -> bool:
    """Whether the true answer stands in an answer as whole words, in any case."""
    wanted, said = simplify(truth), " ".join(answer.casefold().split())
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) is not None


def matches(answer: str, pattern: str) -> bool:
    """Whether a regular expression fits anywhere in an answer, in any case."""
    return re.search(pattern, answer, re.IGNORECASE) is not None


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA accuracy, from 0 to 1: the mean, over all but one of the people asked, of min(1, those who say the same / 3).

    Antol et al. 2015, as their evaluation script computes it: texts are normalised only where people's answers differ.
    """
    said, given = _one_line(answer), [_one_line(truth) for truth in truths]
    if len(set(given)) > 1:
        said, given = vqa_normal_form(said), [vqa_normal_form(truth) for truth in given]
    same = [truth == said for truth in given]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def vqa_normal_form(text: str) -> str:
    """A text as the official script compares it: punctuation out, numbers as digits, no articles, contractions with
    their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS: Final = re.compile(r"\d,\d")
_FULL_STOP: Final = re.compile(r"\.(?!\d)")
_STOPS_TAKEN: Final = 32
"""How many full stops the script takes out at most: it hands over a flag where the count stands."""


def _without_punctuation(text: str) -> str:
    """A sign with a space beside it is taken out, and any sign where a comma is between digits; else it is a space."""
    found, joined = text, _BETWEEN_DIGITS.search(text) is not None
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        found = found.replace(sign, "" if beside_space or joined else " ")
    return _FULL_STOP.sub("", found, count=_STOPS_TAKEN)


_ARTICLES: Final = ("a", "an", "the")
_NUMBERS: Final = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}


def _spell(contractions: str) -> dict[str, str]:
    """Each contraction that lacks one of its apostrophes -> the whole one."""
    return {
        whole[:place] + whole[place + 1 :]: whole
        for whole in contractions.split()
        for place, sign in enumerate(whole)
        if sign == "'"
    }


_CONTRACTIONS: Final = {"somebody'd": "somebodyd"} | _spell(
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
    """
)
"""As the official script has them, with its one mistake. Those of I are there in upper case, so that none is found."""
