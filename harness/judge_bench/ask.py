"""A judge is asked about pairs: by the official protocol, and once in each order.

    asked = ask_judge(bench, pairs, judge, samples=3, seed=0)
    asked[0].calls          # what was asked of the first pair, and what the judge chose

Replies stay in the judge's ledger: nothing is paid twice. A call without a reply is no choice.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.images import picture
from tasks.judges.official_prompts import SOURCES, fetch
from tasks.judges.protocol import Judge, reasons_of
from tasks.judges.reasons import quote_reply
from tasks.pairs.protocol import FIRST, SECOND, Pair, PairBench


@dataclass(frozen=True, kw_only=True)
class Call:
    """One question to a judge, and how its reply is read."""

    repeat: int
    chosen_at: int
    """The place of the chosen answer in the prompt."""
    official: bool
    """Whether the official protocol asks it; else it is asked to compare the orders."""
    picked: int | None = None
    """The place that the reply prefers, by the official rule."""
    concluded: int | None = None
    """The place that it names last."""
    lost: str = ""
    """Why there is no reply."""
    unread: str = ""
    """The beginning of a reply that holds no verdict."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One pair, and what was asked about it."""

    id: str
    category: str
    image: str
    calls: tuple[Call, ...] = ()
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Log-probabilities of both answers by policy and reference, where a model and no judge was asked."""
    lost: str = ""
    """Why there are none."""

    @property
    def reason(self) -> str:
        """Why the pair has no score; "" if nothing is missing."""
        return self.lost or next((call.lost for call in self.calls if call.lost), "")


def planned_calls(bench: PairBench, pair: Pair, samples: int, seed: int) -> list[Call]:
    """The official calls, whose order is drawn where the protocol draws it, and the first in the other order."""
    chance = random.Random(f"{seed}/{pair.id}")
    official = [
        chance.choice((FIRST, SECOND)) if bench.random_order else (FIRST if pair.chosen_first else SECOND)
        for _ in range(samples)
    ]
    calls = [Call(repeat=repeat, chosen_at=place, official=True) for repeat, place in enumerate(official)]
    return [*calls, Call(repeat=0, chosen_at=1 - official[0], official=False)]


def prompt_of(bench: PairBench, pair: Pair, chosen_at: int, theirs: str | None) -> str:
    """What the judge is asked about a pair."""
    answers = (pair.chosen, pair.rejected) if chosen_at == FIRST else (pair.rejected, pair.chosen)
    return bench.prompt(pair.question, *answers, theirs)


def ask_judge(
    bench: PairBench, pairs: Sequence[Pair], judge: Judge, *, samples: int, seed: int, official_prompts: bool = False
) -> list[Compared]:
    """What the judge chose of each pair; JudgeError where going on makes no sense."""
    theirs = fetch(SOURCES[bench.prompt_source]) if official_prompts else None
    plans = [planned_calls(bench, pair, samples, seed) for pair in pairs]
    done: dict[tuple[int, int], Call] = {}
    for repeat in range(samples):
        # Both orders of a pair one after the other: a server has read its picture.
        places = [
            (pair, place)
            for pair, calls in enumerate(plans)
            for place, call in enumerate(calls)
            if call.repeat == repeat
        ]
        questions = [
            (
                prompt_of(bench, pairs[pair], plans[pair][place].chosen_at, theirs),
                picture(pairs[pair].image) if pairs[pair].image else None,
            )
            for pair, place in places
        ]
        replies = judge.ask_many(questions, bench.sampling, label=bench.name, repeat=repeat)
        lost = reasons_of(replies)
        for number, ((pair, place), reply) in enumerate(zip(places, replies, strict=True)):
            done[pair, place] = _read_call(
                bench, plans[pair][place], reply, lost[number].error if reply is None else ""
            )
    return [
        Compared(
            id=pair.id,
            category=pair.category,
            image=pair.image or pair.id,
            calls=tuple(done[number, place] for place in range(len(plans[number]))),
        )
        for number, pair in enumerate(pairs)
    ]


def _read_call(bench: PairBench, call: Call, reply: str | None, lost: str) -> Call:
    facts: dict[str, Any] = {"repeat": call.repeat, "chosen_at": call.chosen_at, "official": call.official}
    if reply is None:
        return Call(**facts, lost=lost)
    picked = bench.official(reply)
    unread = quote_reply(reply) if picked is None else ""
    return Call(**facts, picked=picked, concluded=bench.conclusion(reply), unread=unread)
