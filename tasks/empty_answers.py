"""Which answers say nothing, and how many words one has.

    count_words("A dog, on grass.")      # 4
    is_empty("...")                      # True: no letter and no digit
    is_empty("A dog.", least=4)          # True: nearly empty where a description was asked for
    is_empty("B")                        # False: a whole answer where a choice was asked for

A task whose answers are descriptions says in its YAML how few words are none (`metadata.shortest`: a metric and the
least words of an answer that it counts). Four is the number of Object HalBench's script, which reads no object in an
answer of three words.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

INVISIBLE: Final = dict.fromkeys(map(ord, "\u115f\u1160\u17b4\u17b5\u3164\uffa0"))
"""Letters to Unicode that show nothing."""

WORD: Final = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")
"""Letters and digits, with an apostrophe inside; of scripts without spaces, each character."""


def count_words(answer: str) -> int:
    """How many words an answer has; marks, signs and what is invisible are none."""
    return len(WORD.findall(answer.translate(INVISIBLE)))


def is_empty(answer: str, least: int = 1) -> bool:
    """Whether an answer has fewer words than `least`; by default, whether it has no letter and no digit."""
    return not any(map(str.isalnum, answer.translate(INVISIBLE))) if least == 1 else count_words(answer) < least


def least_words(shortest: Mapping[str, int], metrics: Collection[str]) -> int:
    """How many words an answer needs that these metrics count; `shortest` is the task's (`TaskSpec.shortest`)."""
    return 1 if not shortest else max((words for metric, words in shortest.items() if metric in metrics), default=1)
