"""POVID's dispreferred answers: a hallucination put into a correct answer by a judge.

    items = read_llava(Path("detail_23k.json"), Path("train2014"), kind="caption")
    rows = JsonLines(folder / "injected.jsonl")                              # a run that was killed is continued
    inject(items, judge, rows, seed=0)
    write_pairs(injected(items, rows, seed=0), folder / "povid.json", form="povid")

The correct answer is chosen, the rewritten one rejected. A rewrite is used if it differs in words, has a similar length
and keeps most words; its changes are recorded word by word. Otherwise the judge is asked again, and after some tries
the item is recorded as refused, with the reason. POVID's other rejected answer is made in training:
trainers/losses/povid.py.
"""

import difflib
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import tasks
from support.errors import DataError
from support.files import JsonLines
from support.image_folders import ImageIndex
from support.image_marks import MARK
from support.images import ImageRef
from support.progress import report
from support.records import read
from tasks.judges.batch import BatchJudge
from tasks.judges.protocol import Judge, JudgeSession, Sampling, as_data, fill, reasons_of
from tasks.judges.reasons import Reason, list_reasons
from trainers.data.rows import Preference
from trainers.vlfeedback.annotation import open_for_judge

TASK = "povid"
"""Label of the judge calls."""
BATCH = 64
"""Rewrites requested between two writes."""
BATCH_API = 4096
"""The same for batch APIs."""

Kind = Literal["caption", "question", "reasoning"]
"""Kinds of answers; reasoning gets a broken step."""
Change = Literal["object", "attribute", "relation", "reasoning"]
"""Kinds of hallucinations: a missing object, a wrong property, a wrong relation; a broken step of reasoning."""
CHANGES: tuple[Change, ...] = ("object", "attribute", "relation")
"""Those for answers without reasoning."""


@dataclass(frozen=True, kw_only=True)
class Correct:
    """A correct answer about a picture."""

    row: int
    """Index in the data, which is the key since ids repeat."""
    id: str
    prompt: str
    image: ImageRef
    answer: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How similar a rewrite must be to the answer."""

    similarity: float = 0.7
    """Lowest share of words in common, 2 x matching / all words of both (difflib)."""
    length: tuple[float, float] = (0.75, 1.4)
    """Words of the rewrite over words of the answer."""
    kept: float = 0.6
    """Lowest share of the answer's words that are unchanged in the rewrite."""
    short: int = 6
    """Answers of fewer words need only a rewrite of at most `slack` words more or fewer."""
    slack: int = 4


@dataclass(frozen=True)
class Changed:
    """One difference between answer and rewrite."""

    op: Literal["replace", "insert", "delete"]
    before: str
    after: str


@dataclass(kw_only=True)
class InjectCounts:
    """Results of the items, of this call and of earlier ones."""

    made: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Reasons why none of an item's rewrites could be used."""
    failed: int = 0
    """Judge calls without a reply; repeated next time."""
    pictures: int = 0
    """Items whose picture is missing, broken or too large; tried again next time."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Ids of items, and why their calls or pictures failed."""
    may_pass: bool = False
    """Whether asking again can help."""

    @property
    def reasons(self) -> list[Reason]:
        """Why, with counts; the example is the id of an item."""
        return list_reasons(self.lost)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        shown = {name: value for name, value in vars(self).items() if name != "lost"}
        return shown | {"reasons": [asdict(reason) for reason in self.reasons]}


def read_llava(path: Path, images: Path, *, kind: Kind, skipped: Counter[str] | None = None) -> Iterator[Correct]:
    """The first question and answer of each conversation in a file of LLaVA-Instruct; `images`: folder or zip.

    `kind` is that of the file (detail_23k.json, conversation_58k.json, complex_reasoning_77k.json), as records do not
    have one. Records without a picture, question or answer are left out and counted.
    """
    places = ImageIndex.of(images)
    skipped = Counter() if skipped is None else skipped
    for row, record in enumerate(read(path)):
        names, turns = record.get("image"), record.get("conversations")
        texts = [
            _read_turn(turn, of)
            for turn, of in zip(turns if isinstance(turns, list) else (), ("human", "gpt"), strict=False)
        ]
        if not isinstance(names, str) or not names:
            skipped["no picture"] += 1
        elif len(texts) < 2 or not all(texts):
            skipped["no question and answer"] += 1
        else:
            yield Correct(
                row=row,
                id=str(record.get("id", "")),
                prompt=texts[0],
                image=places.find(names),
                answer=texts[1],
                kind=kind,
            )


def _read_turn(turn: Any, of: str) -> str:
    """This speaker's text in a turn, without image tokens; "" for other speakers."""
    if not isinstance(turn, dict) or turn.get("from") != of or not isinstance(turn.get("value"), str):
        return ""
    return MARK.sub("", str(turn["value"])).strip()


_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:[-'’.,][^\W\u3040-\u30ff\u3400-\u9fff]+)*"
)
"""A word with the marks inside it, or one Chinese or Japanese character."""


def words_of(text: str) -> list[str]:
    """The words of a text as they are written."""
    return _WORD.findall(text)


def changes_between(answer: str, rewrite: str) -> list[Changed]:
    """Where the words of a rewrite differ from the answer's, ignoring case."""
    before, after = words_of(answer), words_of(rewrite)
    return [
        Changed(op, " ".join(before[a:b]), " ".join(after[c:d]))
        for op, a, b, c, d in _match_words(before, after).get_opcodes()
        if op != "equal"
    ]


def _match_words(before: Sequence[str], after: Sequence[str]) -> difflib.SequenceMatcher[str]:
    one, other = ([word.casefold() for word in words] for words in (before, after))
    return difflib.SequenceMatcher(None, one, other, autojunk=False)


def problem_of(answer: str, rewrite: str, bounds: Bounds) -> str | None:
    """Why a rewrite can't be used, in a few words; None if it can."""
    before, after = words_of(answer), words_of(rewrite)
    matched = _match_words(before, after)
    same = sum(block.size for block in matched.get_matching_blocks())
    if same == len(before) == len(after):
        return "says the same"
    if not after:
        return "says nothing"
    if len(before) < bounds.short:
        return None if abs(len(after) - len(before)) <= bounds.slack else "another length"
    low, high = bounds.length
    if not low <= len(after) / len(before) <= high:
        return "another length"
    if same / len(before) < bounds.kept or matched.ratio() < bounds.similarity:
        return "too much changed"
    return None


@cache
def _template(name: str) -> str:
    return (Path(tasks.__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8").strip()


def prompt_of(item: Correct, change: Change, refused: Sequence[str] = ()) -> str:
    """The judge's prompt; `refused`: the problems of its earlier rewrites."""
    data: dict[str, Any] = {"question": item.prompt, "answer": item.answer}
    if change != "reasoning":
        data["wanted"] = change
    if refused:
        data["refused"] = list(refused)
    return fill(_template("povid_reasoning" if change == "reasoning" else "povid"), data=as_data(data))


_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


def parse(reply: str) -> tuple[Change, str] | None:
    """The kind of mistake and the rewritten answer; None unless the reply is the one JSON object requested."""
    text = reply.strip()
    fenced = _FENCED.match(text)
    try:
        pairs = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return None
    found = dict(pairs)
    answer = found.get("answer")
    kind: Change | None = next((change for change in get_args(Change) if change == found.get("kind")), None)
    if kind is None or len(found) != len(pairs) or not isinstance(answer, str) or _NO_CHARACTER.search(answer):
        return None
    return (kind, answer.strip()) if answer.strip() else None


def wanted_changes(item: Correct, seed: int, every: bool = False) -> list[Change]:
    """An item's hallucinations: one drawn by the seed, or all three (`every`); a broken step for reasoning."""
    if item.kind == "reasoning":
        return ["reasoning"]
    return list(CHANGES) if every else [random.Random(f"povid/{seed}/{item.row}").choice(CHANGES)]


@dataclass
class _Try:
    """A wanted rewrite, and the problems of earlier ones."""

    item: Correct
    change: Change
    refused: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.item.row}|{self.change}"


REWRITING = Sampling(temperature=1.0)
"""Repeated rewrites of an answer should differ."""


def inject(
    items: Iterable[Correct],
    judge: Judge,
    rows: JsonLines,
    *,
    seed: int,
    every: bool = False,
    bounds: Bounds | None = None,
    tries: int = 3,
    counts: InjectCounts | None = None,
) -> int:
    """Let a judge put a hallucination into each answer that has no row yet; returns how many failed.

    A rewrite that can't be used is requested again, with the reason, up to `tries` times in all; then a refusal is
    recorded. Failed ones are tried again next time. `every`: each kind of hallucination, not one drawn by the seed.
    """
    counts = InjectCounts() if counts is None else counts
    failed_before = counts.failed + counts.pictures
    wanted = _select_wanted(items, rows, seed, every, counts)
    size = BATCH_API if isinstance(judge, BatchJudge) else BATCH
    session = JudgeSession(judge=judge, label=TASK)
    done = 0
    while batch := list(islice(wanted, size)):
        rows.append(_rewrite_batch(batch, session, bounds or Bounds(), tries, counts))
        done += len(batch)
        report("rewrite", done, 0)
    return counts.failed + counts.pictures - failed_before


def _select_wanted(
    items: Iterable[Correct], rows: JsonLines, seed: int, every: bool, counts: InjectCounts
) -> Iterator[_Try]:
    """The rewrites that have no row yet; counts the others."""
    for item in items:
        for change in wanted_changes(item, seed, every):
            new = _Try(item, change)
            row = rows.by_id.get(new.key)
            if row is None:
                yield new
                continue
            _check_same_answer(item, row, rows.path)
            counts.made += "answer" in row
            counts.refused.update([row["refused"]] if "refused" in row else [])


def _check_same_answer(item: Correct, row: Mapping[str, Any], path: Path) -> None:
    if row["of"] != _digest_of(item):
        other = f"row {row['id']!r} is of another answer than {item.id!r} has"
        raise DataError(f"{path}: {other}; give the same data, or another file")


def _digest_of(item: Correct) -> str:
    return hashlib.sha256(json.dumps([item.prompt, item.answer]).encode()).hexdigest()[:16]


def _rewrite_batch(
    batch: Sequence[_Try], session: JudgeSession, bounds: Bounds, tries: int, counts: InjectCounts
) -> list[dict[str, Any]]:
    """Rows of a batch's rewrites, in its order; none for those without a reply."""
    found: dict[str, dict[str, Any]] = {}
    left = [wanted for wanted in batch if _has_picture(wanted.item, counts)]
    while left:
        asked = (
            (prompt_of(wanted.item, wanted.change, wanted.refused), open_for_judge(wanted.item.image))
            for wanted in left
        )
        again = []
        replies = session.ask_all(asked, REWRITING)
        for number, why in reasons_of(replies).items():
            counts.failed += 1
            counts.lost.append((left[number].item.id, why.error))
            counts.may_pass |= why.may_pass
        for wanted, reply in zip(left, replies, strict=True):
            if reply is None:
                continue
            row, problem = _make_row(wanted, reply, session.judge.model, bounds)
            if problem is None:
                counts.made += 1
                found[wanted.key] = row
                continue
            wanted.refused.append(problem)
            if len(wanted.refused) < tries:
                again.append(wanted)
            else:
                counts.refused[problem] += 1
                found[wanted.key] = row | {"refused": problem, "reply": reply, "tries": len(wanted.refused)}
        left = again
    return [found[wanted.key] for wanted in batch if wanted.key in found]


def _has_picture(item: Correct, counts: InjectCounts) -> bool:
    try:
        open_for_judge(item.image).load()
    except OSError as error:
        counts.pictures += 1
        counts.lost.append((item.id, f"image can't be shown: {error}"))
        return False
    return True


def _make_row(wanted: _Try, reply: str, judge: str, bounds: Bounds) -> tuple[dict[str, Any], str | None]:
    """The row of a reply, and its problem."""
    item = wanted.item
    row: dict[str, Any] = {"id": wanted.key, "item": item.id, "of": _digest_of(item)}
    row |= {"asked": wanted.change, "judge": judge}
    read = parse(reply)
    if read is None:
        return row, "not the JSON asked for"
    kind, answer = read
    if (kind == "reasoning") != (wanted.change == "reasoning"):
        return row, "another kind of change"
    problem = problem_of(item.answer, answer, bounds)
    if problem is not None:
        return row, problem
    before, after = words_of(item.answer), words_of(answer)
    changed = [[one.op, one.before, one.after] for one in changes_between(item.answer, answer)]
    similarity = round(_match_words(before, after).ratio(), 4)
    row |= {"made": kind, "answer": answer, "changed": changed, "similarity": similarity}
    return row | {"tries": len(wanted.refused) + 1}, None


def injected(items: Iterable[Correct], rows: JsonLines, *, seed: int, every: bool = False) -> Iterator[Preference]:
    """Pairs of the items with a rewrite: the correct answer chosen, the rewritten one rejected."""
    for item in items:
        for change in wanted_changes(item, seed, every):
            row = rows.by_id.get(f"{item.row}|{change}", {})
            if "answer" in row:
                _check_same_answer(item, row, rows.path)
                yield Preference(
                    id=f"{item.id}|{change}",
                    prompt=item.prompt,
                    images=(item.image,),
                    chosen=item.answer,
                    rejected=row["answer"],
                    row=item.row,
                    row_id=item.id,
                    rejected_model=row["judge"],
                )
