"""VL-RewardBench (Li et al., arXiv 2411.17451): 1,250 pairs that people checked, in three categories.

    parse_choice("... Overall Judgment: Answer 2 is better.")       # 1, the second place

The official script asks K times, each time in an order drawn by chance, and takes the majority of the K verdicts. A
pair whose majority says nothing that can be read is left out of the accuracy, and counted.
"""

import re
from ast import literal_eval
from collections.abc import Mapping
from typing import Any, Final

from support.errors import BenchmarkDataError
from tasks.documents import load
from tasks.judges.protocol import Sampling, as_data, fill, template
from tasks.pairs.protocol import Pair, PairBench, PublishedJudge, with_unique_ids

NAME: Final = "vl_rewardbench"
CATEGORIES: Final = ("general", "hallucination", "reasoning")
FOLDERS: Final = {
    "vlfeedback": "general",
    "wildvision-battle": "general",
    "povid": "hallucination",
    "rlhf-v": "hallucination",
    "rlaif-v": "hallucination",
    "reasoning_tasks": "reasoning",
}
"""Folder of an image in the authors' repository -> category, as their script has it."""
PREFIXES: Final = {
    "hallucination": "hallucination",
    "rlhf": "hallucination",
    "rlaif": "hallucination",
    "mathverse": "reasoning",
    "mmmu": "reasoning",
}
"""The same for tables without folders, by the first word of an id (as lmms-eval has it); all others are general."""

_BEGINNING: Final = re.compile(r"Overall Judgment|Therefore", re.IGNORECASE)
_VERDICT: Final = re.compile(r"Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better", re.IGNORECASE)
_WITHOUT: Final = str.maketrans("", "", "\n*")


def parse_choice(reply: str) -> int | None:
    """The place that the last "Answer N is better" after the first "Overall Judgment" or "Therefore" names.

    The official rule is one pattern with `.*`, which backtracks for long on some replies; this finds the same. There
    any number but the rejected answer's counts as the chosen one's; here a number that is no place is no verdict.
    """
    text = reply.translate(_WITHOUT)
    begun = _BEGINNING.search(text)
    found = None if begun is None else list(_VERDICT.finditer(text, begun.end()))
    if not found:
        return None
    return {"1": 0, "2": 1}.get(found[-1][1])


def prompt(question: str, first: str, second: str, theirs: str | None = None) -> str:
    """What a judge is asked; in the authors' words where their template (with NUL for data) is given."""
    if theirs is not None:
        before, after_question, after_first, rest = theirs.split("\0")
        return f"{before}{question}{after_question}{first}{after_first}{second}{rest}"
    data = {"question": question, "answer_1": first, "answer_2": second}
    return fill(template(NAME), data=as_data(data))


def read_ranking(cell: Any, row: Mapping[str, Any]) -> list[int]:
    """A cell of `human_ranking`, which gives 0 to the better answer; also as text."""
    found = cell
    if isinstance(cell, str):
        try:
            found = literal_eval(cell.strip().replace("[0 1]", "[0, 1]").replace("[1 0]", "[1, 0]"))
        except (ValueError, SyntaxError):
            found = None
    try:
        ranks = [int(rank) for rank in found]
    except (TypeError, ValueError):
        ranks = []
    if sorted(ranks) != [0, 1]:
        raise ValueError("must be [0, 1] or [1, 0], where 0 is the better answer's")
    return ranks


def category_of(row: Mapping[str, Any]) -> str:
    """By the row's own `category`, else the folder of its image, else its id."""
    own = str(row.get("category") or "").strip().lower()
    if own in CATEGORIES:
        return own
    folders = str(row.get("image_path") or "").lower().split("/")
    if found := next((FOLDERS[folder] for folder in folders if folder in FOLDERS), None):
        return found
    return PREFIXES.get(re.split(r"[-_]", str(row["id"]).lower())[0], "general")


def read(paths: Mapping[str, str], partial: bool = False) -> list[Pair]:
    """The pairs, from the hub or the user's copy; BenchmarkDataError."""
    rows = load(
        task=NAME,
        data="MMInstruction/VL-RewardBench",
        revision="60630ac36ca93c0ca30249bd1ab3706170836cea",
        rows=1250,
        columns={
            "id": "id",
            "query": "question",
            "response": "texts",
            "human_ranking": "tasks.pairs.vl_rewardbench.read_ranking",
            "category": "any if there",
            "image_path": "any if there",
            "image": "any",
        },
        other_names={"query": "question", "human_ranking": "answer", "id": "index"},
        paths=paths,
        partial_data=partial,
    )["test"].to_list()
    ids = with_unique_ids([row["id"] for row in rows])
    return [_read_pair(row, id, place) for place, (row, id) in enumerate(zip(rows, ids, strict=True), start=1)]


def _read_pair(row: Mapping[str, Any], id: str, place: int) -> Pair:
    answers, ranks = row["response"], row["human_ranking"]
    if len(answers) != 2:
        raise BenchmarkDataError(f"{NAME}: row {place}: response has {len(answers)} answers, not 2")
    best = ranks.index(0)
    return Pair(
        id=id,
        category=category_of(row),
        question=row["query"],
        chosen=answers[best],
        rejected=answers[1 - best],
        image=row["image"],
        chosen_first=best == 0,
    )


SOURCE: Final = "VL-RewardBench, arXiv 2411.17451, as quoted in arXiv 2501.12368, Table 3"
_PAPER: Final = {
    "Gemini-1.5-Flash (2024-09-24)": (47.8, 59.6, 58.4, 57.6, 55.3),
    "Gemini-1.5-Pro (2024-09-24)": (50.8, 72.5, 64.2, 67.2, 62.5),
    "Claude-3.5-Sonnet (2024-06-22)": (43.4, 55.0, 62.3, 55.3, 53.6),
    "GPT-4o-mini (2024-07-18)": (41.7, 34.5, 58.2, 41.5, 44.8),
    "GPT-4o (2024-08-06)": (49.1, 67.6, 70.5, 65.8, 62.4),
    "Qwen2-VL-7B": (31.6, 19.1, 51.1, 28.3, 33.9),
    "InternVL2-8B": (35.6, 41.1, 59.0, 44.5, 45.2),
    "LLaVA-Critic-8B": (54.6, 38.3, 59.1, 41.2, 44.0),
    "Qwen2-VL-72B": (38.1, 32.8, 58.0, 39.5, 43.0),
    "Llama-3.2-90B": (42.6, 57.3, 61.7, 56.2, 53.9),
    "IXC-2.5-Reward-7B (a trained reward model)": (84.7, 62.5, 62.9, 65.8, 70.0),
}
LATER: Final = "Skywork-VL Reward, arXiv 2505.07263 (and its model card)"
_LATER: Final = {
    "Gemini-2.0-flash-exp (2024-12)": (50.8, 72.6, 70.1, 68.8, 64.5),
    "Qwen2.5-VL-7B": (43.4, 42.0, 63.0, 48.0, 49.5),
    "InternVL3-8B": (60.6, 44.0, 62.3, 57.0, 55.6),
    "Qwen2.5-VL-72B": (47.8, 46.8, 63.5, 51.6, 52.7),
    "InternVL3-78B": (67.8, 52.5, 64.5, 63.3, 61.6),
}

BENCH: Final = PairBench(
    name=NAME,
    title="VL-RewardBench",
    read=read,
    prompt=prompt,
    sampling=Sampling(temperature=0.2, top_p=0.2, max_tokens=2048),
    official=parse_choice,
    conclusion=parse_choice,
    prompt_source=NAME,
    categories=CATEGORIES,
    published=tuple(
        PublishedJudge(
            model=model, source=source, scores=dict(zip((*CATEGORIES, "overall", "macro"), scores, strict=True))
        )
        for source, table in ((SOURCE, _PAPER), (LATER, _LATER))
        for model, scores in table.items()
    ),
    note=(
        "The authors' script asks 10 times by default and reports the majority of 1 to 9 verdicts (--samples). The "
        "pairs come from VLFeedback, POVID, RLHF-V, RLAIF-V and others: a model trained on those has seen some."
    ),
)
