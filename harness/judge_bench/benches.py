"""The benchmarks of judges by name, and the one of the scenes world, which needs no data.

    pairs = BENCHES["scenes"].read({}, False)

The scenes' pairs are true answers about rendered scenes, and the same with one planted mistake (as POVID's are made):
which is better is known exactly. They are of a split of their own, so that no model was trained on them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from support.errors import UnknownName
from support.images import keep
from tasks.pairs import multimodal_rewardbench, vl_rewardbench
from tasks.pairs.protocol import Pair, PairBench

SCENES: Final = "scenes"
SPLIT: Final = "judge-bench"
PICTURES: Final = 150
"""Scenes that pairs are made of."""


def read_scenes(paths: Mapping[str, str], partial: bool = False) -> list[Pair]:
    """True and spoiled answers about rendered scenes; nothing is read."""
    return list(_make_scenes_pairs())


def _make_scenes_pairs() -> Iterator[Pair]:
    from support.errors import JudgeError
    from trainers.povid.inject import CHANGES, Bounds, parse, problem_of, prompt_of
    from trainers.povid.scenes import ScenesInjector, scenes_items
    from trainers.vlfeedback.annotation import open_for_judge

    injector, bounds = ScenesInjector(), Bounds()
    for item in scenes_items(PICTURES, 0, SPLIT):
        made: dict[str, str] = {}
        for change in CHANGES:
            try:
                found = parse(injector.ask(prompt_of(item, change), open_for_judge(item.image)))
            except JudgeError:  # the answer leaves no room for a mistake
                continue
            if found is not None and problem_of(item.answer, found[1], bounds) is None:
                made.setdefault(*reversed(found))
        for number, (spoiled, kind) in enumerate(made.items()):
            yield Pair(
                id=f"{item.id}/{number}",
                category=kind,
                question=item.prompt,
                chosen=item.answer,
                rejected=spoiled,
                image=keep(item.image),
                chosen_first=number % 2 == 0,
            )


BENCHES: Final[Mapping[str, PairBench]] = {
    SCENES: replace(
        vl_rewardbench.BENCH,
        name=SCENES,
        title="The scenes world's pairs",
        read=read_scenes,
        categories=("object", "attribute", "relation"),
        published=(),
        note="Asked as VL-RewardBench asks. The scenes judge is the truth here: it gets 100.",
    ),
    vl_rewardbench.NAME: vl_rewardbench.BENCH,
    multimodal_rewardbench.NAME: multimodal_rewardbench.BENCH,
}


def bench_of(name: str) -> PairBench:
    """The benchmark of this name; UnknownName."""
    if name not in BENCHES:
        raise UnknownName("benchmark of judges", name, BENCHES)
    return BENCHES[name]
