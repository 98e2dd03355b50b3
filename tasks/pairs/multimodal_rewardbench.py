"""Multimodal RewardBench (Yasunaga et al., arXiv 2502.14191): about 5,000 pairs in six categories.

    parse_choice("... Final verdict: [[B]]")        # 1, the second place

The official script asks once, in the order of the data; a reply without a verdict is decided by a coin. The images are
not distributed with the data: the authors' script downloads them.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from support.errors import BenchmarkDataError
from support.records import read_json
from tasks.documents import load
from tasks.judges.protocol import Sampling, as_data, fill, template
from tasks.pairs.protocol import FIRST, SECOND, Pair, PairBench, PublishedJudge, with_unique_ids

NAME: Final = "multimodal_rewardbench"
COIN_SEED: Final = 123
"""The official script's."""
CATEGORIES: Final = (
    *("open_generation/correctness_task", "open_generation/preference_task", "knowledge"),
    *("reasoning/math", "reasoning/coding", "safety/bias", "safety/toxicity", "vqa"),
)
_MARKS: Final = {"[[A]]": FIRST, "[[B]]": SECOND}


def parse_choice(reply: str) -> int | None:
    """By the official rule: the first place if "[[A]]" is anywhere in the reply, else the second for "[[B]]"."""
    return next((place for mark, place in _MARKS.items() if mark in reply), None)


def parse_last(reply: str) -> int | None:
    """The place that the last verdict in the reply names: what is quoted before decides nothing."""
    at, place = max((reply.rfind(mark), place) for mark, place in _MARKS.items())
    return place if at >= 0 else None


def prompt(question: str, first: str, second: str, theirs: str | None = None) -> str:
    """What a judge is asked; in the authors' words where their template is given."""
    if theirs is not None:
        return theirs.format(question=question, answer_a=first, answer_b=second)
    # A verdict that an answer holds can't be quoted as it stands.
    data = as_data({"question": question, "answer_a": first, "answer_b": second}).replace("[[", "[\\u005b")
    return fill(template(NAME), data=data, A="[[A]]", B="[[B]]")


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of all_data.json, in a folder or as it is."""
    found = sorted(path.rglob("all_data.json")) if path.is_dir() else [path]
    if not found:
        raise ValueError("no all_data.json in it")
    folder = found[0].parent.relative_to(path) if path.is_dir() else Path()
    return [{**row, "image": (folder / str(row.get("Image"))).as_posix()} for row in read_json(found[0])]


def category_of(row: Mapping[str, Any]) -> str:
    """As the official script divides categories."""
    category, id = str(row["Category"]), str(row["ID"]).lower()
    if category == "safety":
        return "safety/bias" if id.startswith("pairs") else "safety/toxicity"
    if category == "reasoning":
        return "reasoning/math" if id.startswith("math") else "reasoning/coding"
    return category


def read(paths: Mapping[str, str], partial: bool = False) -> list[Pair]:
    """The pairs in the user's copy; BenchmarkDataError."""
    found = load(
        task=NAME,
        data="facebookresearch/multimodal_rewardbench",
        revision="main",
        rows=None,
        local="the folder data/ that the authors' scripts/0_download_data.py filled (all_data.json and images/)",
        rows_from="tasks.pairs.multimodal_rewardbench.rows",
        columns={
            "ID": "id",
            "Text": "text or nothing",
            "Output1": "text",
            "Output2": "text",
            "Better": "one of Output1 Output2",
            "Category": "text",
            "image": "any",
        },
        paths=paths,
        without_picture=True,
        partial_data=partial,
    )["test"].to_list()
    if lost := [row["ID"] for row in found if not row["Text"]]:
        raise BenchmarkDataError(
            f"{NAME}: {len(lost)} rows have no question, the first is {lost[0]!r}: name the folder that the authors' "
            "scripts/0_download_data.py has finished"
        )
    return [
        Pair(
            id=id,
            category=category_of(row),
            question=row["Text"],
            chosen=row[row["Better"]],
            rejected=row["Output2" if row["Better"] == "Output1" else "Output1"],
            image=row["image"],
            chosen_first=row["Better"] == "Output1",
        )
        for row, id in zip(found, with_unique_ids([row["ID"] for row in found]), strict=True)
    ]


def guesser() -> random.Random:
    """The official coin: one throw for each reply without a verdict, in the order of the data."""
    return random.Random(COIN_SEED)


SOURCE: Final = "facebookresearch/multimodal_rewardbench, README, leaderboard"
_NAMES: Final = ("overall", *CATEGORIES[:3], "reasoning", "safety", "vqa")
_LEADERBOARD: Final = {
    "Claude 3.5 Sonnet (Dec 2024)": (72.0, 62.6, 67.8, 73.9, 66.8, 68.7, 85.6),
    "Gemini 1.5 Pro (Dec 2024)": (72.0, 63.5, 67.7, 66.3, 61.8, 76.5, 87.2),
    "GPT-4o (Dec 2024)": (71.5, 62.6, 69.0, 72.0, 64.7, 66.9, 87.2),
    "Llama-3.2-90B-Vision-Instruct": (62.4, 60.0, 68.4, 61.2, 54.6, 51.9, 77.1),
    "Aria": (57.3, 59.5, 63.5, 55.5, 52.4, 50.2, 64.2),
    "Molmo-7B-D-0924": (54.3, 56.8, 59.4, 54.6, 52.1, 44.2, 60.3),
    "Llama-3.2-11B-Vision-Instruct": (52.4, 57.8, 65.8, 55.5, 51.2, 35.5, 55.8),
    "Llava-1.5-13B": (48.9, 53.3, 55.2, 50.5, 51.3, 34.9, 51.8),
}

BENCH: Final = PairBench(
    name=NAME,
    title="Multimodal RewardBench",
    read=read,
    prompt=prompt,
    sampling=Sampling(temperature=None, max_tokens=1024),
    official=parse_choice,
    conclusion=parse_last,
    prompt_source=NAME,
    random_order=False,
    votes=False,
    guesses=True,
    macro=False,
    categories=CATEGORIES,
    groups={"reasoning": CATEGORIES[3:5], "safety": CATEGORIES[5:7]},
    published=tuple(
        PublishedJudge(model=model, source=SOURCE, scores=dict(zip(_NAMES, scores, strict=True)))
        for model, scores in _LEADERBOARD.items()
    ),
    note="The published scores are of 5,211 pairs; the 211 about Hateful Memes are not distributed.",
)
