"""Questions of training data and benchmarks, compared by the sentences that belong to them alone.

A sentence that is asked of more than `COMMON` images, as "Describe this image.", identifies no question. What is left
of a question must have `SPECIFIC` characters to be evidence by itself, and must not be near to questions about more
than `COMMON` images, as those made from one template are.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from trainers.data.near_texts import near_texts, normal_prompt, similarity

COMMON: Final = 5
"""A sentence asked of more images than this, in the data or in the benchmarks, identifies no question."""
SPECIFIC: Final = 40
"""Characters a question must have without its common sentences to be evidence by itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question by its sentences, in normal form."""

    sentences: tuple[str, ...]
    image: str
    """Content of the image it is about."""

    @classmethod
    def of(cls, text: str, image: str) -> "Question":
        """The question that a text asks."""
        parts = (normal_prompt(part) for part in _SENTENCE_END.split(text))
        return cls(tuple(part for part in parts if part), image)

    @property
    def whole(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)

    def without(self, common: frozenset[str]) -> str:
        """The sentences that are not common ones."""
        return " ".join(sentence for sentence in self.sentences if sentence not in common)


_SENTENCE_END: Final = re.compile(r"(?<=[.?!:;。？！：；])\s+|\n+|(?<=[。？！：；])")


def common_sentences(questions: Iterable[Question]) -> frozenset[str]:
    """Sentences that are asked of more than `COMMON` images."""
    images_of: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        for sentence in question.sentences:
            if len(images_of[sentence]) <= COMMON:
                images_of[sentence].add(question.image)
    return frozenset(sentence for sentence, shown in images_of.items() if len(shown) > COMMON)


def question_similarity(one: Question, other: Question, common: frozenset[str]) -> float:
    """Of two questions about one image: of what is left without common sentences if anything is, else of all."""
    left, right = one.without(common), other.without(common)
    if not left or not right:
        left, right = one.whole, other.whole
    return similarity(left, right)


def same_questions(
    asked: Mapping[int, Question], questions: Sequence[Question], common: frozenset[str], similar: float
) -> Iterator[tuple[int, int, bool, float]]:
    """(key in `asked`, place in `questions`, whether equal, similarity) of specific questions that are near."""
    keys: dict[str, list[int]] = defaultdict(list)
    for key, question in asked.items():
        keys[question.without(common)].append(key)
    places: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        places[question.without(common)].append(place)
    left, right = ([text for text in texts if len(text) >= SPECIFIC] for texts in (keys, places))
    near = [(left[query], right[entry], value) for query, entry, value in near_texts(left, right, similar)]
    about: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, other, _ in near:
        about["document", other] |= {asked[key].image for key in keys[one]}
        about["row", one] |= {questions[place].image for place in places[other]}
    for one, other, value in near:
        if len(about["document", other]) <= COMMON and len(about["row", one]) <= COMMON:
            yield from ((key, place, one == other, value) for key in keys[one] for place in places[other])
