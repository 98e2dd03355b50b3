"""VLMEvalKit's tables (index, image, question, answer, ... with tabs between) as rows in the columns of our tasks.

    TABLES["pope_llava"].files                   # ("POPE.tsv",)
    TABLES["pope_llava"].rows(rows, path)        # a row for each of the categories that one names

A picture stands in `image` as base64, or is the index of the row that has it. Nothing here reads pictures. A row that
is not as that kit writes it is a ValueError.
"""

import logging
import re
from ast import literal_eval
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Any, Final

from support.errors import DataError
from support.records import Record, read_json
from tasks.columns import LETTERS, is_nothing, list_in

log = logging.getLogger(__name__)

_Convert = Callable[[Sequence[Record], Path], list[Record]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The kit's table of one task."""

    files: tuple[str, ...]
    """What the kit calls it."""
    columns: frozenset[str]
    """What tells it from a table in the hub's columns."""
    rows: _Convert
    """From its rows, and the path of the table, to those of the task."""
    of: str = ""
    """The task of which the kit has the questions, where that is another one."""

    def holds(self, names: Collection[str]) -> bool:
        """Whether a table with these columns is the kit's."""
        return self.columns <= set(names)


def choose_file(task: str, files: Sequence[Path]) -> Path | None:
    """The kit's table of a task among files: the first of those that it may be called; None without one. DataError for
    several of one name that differ."""
    kit = TABLES.get(task)
    named = next((found for name in (kit.files if kit else ()) if (found := [f for f in files if f.name == name])), [])
    if not all(cmp(named[0], other, shallow=False) for other in named[1:]):
        raise DataError(f"{', '.join(map(str, named))}: differ; name one of them")
    return named[0] if named else None


def check_versions(task: str, files: Sequence[Path]) -> None:
    """DataError for several tables with tabs that are no shards of one: versions of the kit's."""
    names = {re.sub(r"\d+", "0", file.name) for file in files if file.suffix.lower() == ".tsv"}
    if task in TABLES and len(names) > 1:
        raise DataError(f"{', '.join(file.name for file in files[:4])}: tables of several versions; name one of them")


def other_version(task: str, files: Sequence[Path]) -> str:
    """What is read where that is another of the kit's tables than the task's, by its name, or another task's questions;
    "" else. A log line tells of it."""
    kit = TABLES.get(task)
    if kit and kit.of and [file.name for file in files] == list(kit.files):
        log.warning("%s: %s: VLMEvalKit has the questions of %s, not of %s", task, files[0], kit.of, task)
        return f"of {kit.of}"
    known = [Path(name).stem.lower() for name in kit.files] if kit else []
    for file in files if known else ():
        stem = file.stem.lower()
        if file.suffix.lower() == ".tsv" and stem not in known and any(stem.startswith(f"{one}_") for one in known):
            log.warning("%s: is not %s by its name, the benchmark's table; it is read", file, TABLES[task].files[0])
            return file.stem
    return ""


def _rename(names: Mapping[str, str]) -> _Convert:
    """Columns of ours -> those of the kit."""

    def convert(rows: Sequence[Record], path: Path) -> list[Record]:
        return [{**row, **{ours: row.get(theirs) for ours, theirs in names.items()}} for row in rows]

    return convert


def _mme(rows: Sequence[Record], path: Path) -> list[Record]:
    """The kit pairs questions by the path of their picture."""
    named = "image_path" if all(not is_nothing(row.get("image_path")) for row in rows) else "index"
    return _rename({"question_id": named})(rows, path)


def _pope(rows: Sequence[Record], path: Path) -> list[Record]:
    """A question stands once, with the samples that have it: "adversarial,popular,random", or a list of these."""

    def split(cell: Any) -> list[Any]:
        text = str(cell or "")
        listed = list_in(text)
        return text.split(",") if listed is None else listed

    return [
        {**row, "question_id": row["index"], "category": str(category).strip()}
        for row in rows
        for category in split(row.get("category"))
    ]


_DIMENSIONS: Final = {
    **{"scene understanding": 1, "instance identity": 2, "instance attribute": 3, "instance location": 4},
    **{"instance counting": 5, "spatial relation": 6, "instance interaction": 7, "visual reasoning": 8},
    **{"text recognition": 9, "text understanding": 9},
}
"""SEED-Bench's dimensions in any of their spellings, singular -> question_type_id."""
_OF_IMAGES: Final = {str(number): number for number in range(1, 10)}
"""The same, where a table has the numbers themselves."""


def _seedbench(rows: Sequence[Record], path: Path) -> list[Record]:
    found = []
    for number, row in enumerate(rows, start=1):
        told = str(row.get("category")).strip().lower().removesuffix(".0")
        spelled = " ".join(word.removesuffix("s") for word in re.split(r"[\s_-]+", told))
        dimension = {**_DIMENSIONS, **_OF_IMAGES}.get(spelled)
        if dimension is None:
            known = ", ".join([*_DIMENSIONS, "1 to 9"])
            raise ValueError(f"row {number}: category {row.get('category')!r}: must be one of {known}")
        choices = {f"choice_{letter.lower()}": row.get(letter) for letter in "ABCD"}
        about = {"question_id": row["index"], "data_type": "image", "question_type_id": dimension}
        found.append({**row, **choices, **about})
    return found


def _scienceqa(rows: Sequence[Record], path: Path) -> list[Record]:
    def choices(number: int, row: Record) -> list[Any]:
        there = [letter for letter in LETTERS if not is_nothing(row.get(letter))]
        if gap := next((letter for letter, due in zip(there, LETTERS, strict=False) if letter != due), None):
            raise ValueError(f"row {number}: has option {gap} and none before it at {LETTERS[there.index(gap)]}")
        return [row[letter] for letter in there]

    return [{**row, "choices": choices(number, row)} for number, row in enumerate(rows, start=1)]


_OTHER_ANSWERS: Final = "Other Answers"
"""The second option of what is an open question in the authors' table; the first one is its answer."""


def _mmmu(rows: Sequence[Record], path: Path) -> list[Record]:
    """The validation questions; their pictures stand in one cell as a list."""
    found = []
    for row in rows:
        if str(row.get("split") or "validation").strip().lower() != "validation":
            continue
        there = [str(row[letter]) for letter in LETTERS if not is_nothing(row.get(letter))]
        is_open = len(there) < 2 or there[1] == _OTHER_ANSWERS
        cell = str(row.get("image"))
        shown = literal_eval(cell) if cell.startswith("[") else [cell]
        own = str(row.get("id") or "")
        about = {
            "id": own if own.startswith("validation_") else f"validation_{row.get('category')}_{row['index']}",
            "options": [] if is_open else there,
            "question_type": "open" if is_open else "multiple-choice",
            "answer": there[0] if is_open and there else row.get("answer"),
        }
        pictures = {f"image_{number}": each for number, each in enumerate(shown, start=1)}
        rest = {name: value for name, value in row.items() if name not in ("image", "image_path", *LETTERS)}
        found.append({**rest, **about, **pictures})
    return found


def _amber(rows: Sequence[Record], path: Path) -> list[Record]:
    """The yes/no questions; the kit has no descriptions."""
    names = {"id": "index", "query": "question", "type": "category"}
    return [{**row, "truth": [row.get("answer")], "hallu": []} for row in _rename(names)(rows, path)]


_PLACE: Final = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
DETAILS: Final = "HallusionBench.json"
"""The authors' file, which has what the kit's table lacks."""


def _hallusionbench(rows: Sequence[Record], path: Path) -> list[Record]:
    """The index says which question it is: VD_illusion_1_0_1_0. What the judge reads as the true answer is in the
    authors' file beside the table; without it, yes or no."""
    details = _read_details(path)
    found, bare = [], 0
    for number, row in enumerate(rows, start=1):
        parts = str(row["index"]).split("_")
        if len(parts) != len(_PLACE):
            is_due = "_".join(_PLACE)
            raise ValueError(f"row {number}: index {row['index']!r}: must be {is_due}, such as VD_illusion_1_0_1_0")
        place = dict(zip(_PLACE, parts, strict=True))
        truth = row.get("gt_answer_details") or details.get(tuple(place[name] for name in _PLACE if name in KEY))
        bare += is_nothing(truth)
        answer = str(row.get("answer"))
        found.append({**row, **place, "gt_answer": answer, "gt_answer_details": truth or f"{answer.strip('. ')}."})
    if bare:
        what = f"{bare} of {len(found)} rows have no gt_answer_details: the judge reads Yes or No in its place"
        log.warning("hallusionbench: %s: %s; put the authors' %s beside it", path, what, DETAILS)
    return found


KEY: Final = frozenset(_PLACE) - {"visual_input"}


def _read_details(table: Path) -> dict[tuple[str, ...], str]:
    file = table.parent / DETAILS
    if not file.is_file():
        return {}
    names = [name for name in _PLACE if name in KEY]
    return {tuple(str(row.get(name)) for name in names): row.get("gt_answer_details", "") for row in read_json(file)}


_OWN: Final = frozenset({"index", "question", "answer"})
_HALLUSION: Final = Table(files=("HallusionBench.tsv",), columns=_OWN, rows=_hallusionbench)

TABLES: Final[Mapping[str, Table]] = {
    "mme": Table(files=("MME.tsv",), columns=_OWN | {"category"}, rows=_mme),
    "pope": Table(files=("POPE.tsv",), columns=_OWN | {"category"}, rows=_pope, of="pope_llava"),
    "pope_llava": Table(files=("POPE.tsv",), columns=_OWN | {"category"}, rows=_pope),
    "amber": Table(files=("AMBER.tsv",), columns=_OWN | {"category"}, rows=_amber),
    "hallusionbench": _HALLUSION,
    "hallusionbench_image": _HALLUSION,
    "mmbench": Table(
        files=("MMBench_DEV_EN.tsv", "MMBench.tsv", "mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv"),
        columns=_OWN | {"A", "B"},
        rows=_rename({}),
    ),
    "mmstar": Table(files=("MMStar.tsv",), columns=_OWN | {"category", "l2_category"}, rows=_rename({})),
    "realworldqa": Table(files=("RealWorldQA.tsv",), columns=_OWN | {"A", "B"}, rows=_rename({})),
    "seedbench_img": Table(files=("SEEDBench_IMG.tsv",), columns=_OWN | {"A", "B", "C", "D"}, rows=_seedbench),
    "scienceqa_img": Table(files=("ScienceQA_TEST.tsv",), columns=_OWN | {"A", "B"}, rows=_scienceqa),
    "textvqa": Table(
        files=("TextVQA_VAL.tsv",), columns=_OWN, rows=_rename({"question_id": "index", "answers": "answer"})
    ),
    "mmmu": Table(files=("MMMU_DEV_VAL.tsv",), columns=_OWN | {"A", "category"}, rows=_mmmu),
    "mmvet": Table(
        files=("MMVet.tsv",),
        columns=_OWN | {"category"},
        rows=_rename({"question_id": "index", "capability": "category"}),
    ),
    "llava_bench_wild": Table(
        files=("LLaVABench.tsv",),
        columns=frozenset({"index", "question", "caption", "gpt4_ans"}),
        rows=_rename({"question_id": "index", "gpt_answer": "gpt4_ans"}),
    ),
}
"""Task -> the kit's table of it."""
