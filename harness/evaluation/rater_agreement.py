"""`harness judge agree` and `calibrate`: the agreement of two sets of ratings of the same items.

    print(report(read_ratings(Path("gpt4v.jsonl")), read_ratings(Path("mine.csv")), names=("gpt4v", "mine")))

Ratings come from a table (CSV or JSON lines) with id and rating, and optionally aspect, item and position (the texts
that were rated together and their order), length or text, repeat; from a sample log (.parquet), from the ratings of
`harness vlfeedback annotate`, or from rows in VLFeedback's published format.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leaderboards.statistics.agreement import (
    Agreement,
    Measured,
    agree,
    largest_disagreements,
    position_bias,
    self_consistency,
    verbosity_bias,
)
from support.errors import DataError
from support.markdown import MISSING, cell, line, table
from support.records import read


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One rating."""

    id: str
    """Of the text and the aspect."""
    rating: float | None
    item: str
    """The texts that were rated together in one prompt have the same item."""
    text: str
    """The id of the rated text; the same for all its aspects."""
    group: str
    """Ratings of one group, such as those about one image, are not independent."""
    position: int | None = None
    length: float | None = None
    """In words."""
    repeat: int = 0


def read_ratings(path: Path) -> list[Rated]:
    """The ratings in a file; DataError if it has none, or rates an item twice."""
    try:
        is_log = path.suffix == ".parquet"
        found = _read_sample_log(path) if is_log else _read_rows(path, list(read(path, strict=True)))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not found:
        raise DataError(f"{path}: holds no ratings")
    seen: set[tuple[str, int]] = set()
    for rated in found:
        if (rated.id, rated.repeat) in seen:
            raise DataError(f"{path}: {rated.id!r} is rated twice; repeats need a column `repeat`")
        seen.add((rated.id, rated.repeat))
    return found


_JUDGED = ("rating", "grade", "model", "check")
"""The fields that hold the judge's rating in records of judged tasks."""


def _read_sample_log(path: Path) -> list[Rated]:
    from leaderboards.board.sample import from_parquet

    try:
        samples = from_parquet(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not a sample log: {line(str(error))}") from None
    found = []
    for sample in samples:
        records = list(sample.records.values())
        values = [find_number(record[name]) for record in records for name in _JUDGED if name in record]
        if sample.reply is None and not values:
            continue
        unread = any(record.get("unrated") or record.get("unparsed") for record in records)  # scored 0 by default
        name = f"{sample.task}/{sample.id}"
        image = next((record["cluster"] for record in records if "cluster" in record), sample.image)
        found.append(
            Rated(
                id=name,
                rating=values[0] if values and not unread else None,
                item=name,
                text=name,
                group=f"{sample.task}/{image}" if image else name,
                length=None if sample.answer is None else float(len(sample.answer.split())),
            )
        )
    return found


def _read_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Rated]:
    names = iter(_name_rows(path, [row for row in rows if "completions" in row]))
    found: list[Rated] = []
    for row in rows:
        if "completions" in row:
            found += _read_vlfeedback(path, row, next(names))
        elif isinstance(row.get("ratings"), dict) and isinstance(row.get("order"), list):
            found += _read_annotation(path, row)
        else:
            found.append(_read_table_row(path, row))
    return found


def _read_table_row(path: Path, row: Mapping[str, Any]) -> Rated:
    if row.get("id") in (None, "") or "rating" not in row:
        raise DataError(f"{path}: a row lacks id or rating; it has {', '.join(line(str(name)) for name in row)}")
    text = str(row["id"])
    name = f"{text}/{row['aspect']}" if row.get("aspect") else text
    item = text if row.get("item") in (None, "") else str(row["item"])
    rating, length, position, repeat = (find_number(row.get(key)) for key in ("rating", "length", "position", "repeat"))
    if length is None and isinstance(row.get("text"), str):
        length = float(len(row["text"].split()))
    place = None if position is None else int(position)
    about: dict[str, Any] = {"item": item, "text": text, "group": item, "position": place, "length": length}
    return Rated(id=name, rating=rating, repeat=int(repeat or 0), **about)


def _read_annotation(path: Path, row: Mapping[str, Any]) -> Iterator[Rated]:
    """A rating for each aspect of each text, from a row of `harness vlfeedback annotate`."""
    item = str(row.get("id"))
    for member, aspects in row["ratings"].items():
        if not isinstance(aspects, dict):
            raise DataError(f"{path}: row {item!r}: ratings of {member!r} must be an object of aspects")
        position = row["order"].index(member) + 1 if member in row["order"] else None
        text = f"{item}/{member}"
        for aspect, rating in aspects.items():
            name = f"{text}/{aspect}"
            yield Rated(id=name, rating=find_number(rating), item=item, text=text, group=item, position=position)


def _name_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' ids; an id that several rows have, as in VLFeedback, is followed by a digest of prompt and answers."""
    rows_by_id = Counter(str(row.get("id")) for row in rows)
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        name = str(row.get("id"))
        if rows_by_id[name] > 1:
            said = [[completion.get("model"), completion.get("response")] for completion in _completions(path, row)]
            name += "#" + hashlib.sha256(json.dumps([row.get("prompt"), said]).encode()).hexdigest()[:8]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return names


def _read_vlfeedback(path: Path, row: Mapping[str, Any], name: str) -> Iterator[Rated]:
    """A rating for each aspect of each completion."""
    models: Counter[str] = Counter()
    for completion in _completions(path, row):
        model = str(completion.get("model"))
        models[model] += 1
        text = f"{name}/{model}" + (f".{models[model]}" if models[model] > 1 else "")
        notes = completion.get("annotations") or {}
        if not isinstance(notes, dict):
            raise DataError(f"{path}: row {name!r}: annotations must be an object of aspects")
        length = float(len(str(completion.get("response", "")).split()))
        for aspect, note in notes.items():
            rating = find_number(note.get("Rating")) if isinstance(note, dict) else None
            yield Rated(id=f"{text}/{aspect}", rating=rating, item=name, text=text, group=name, length=length)


def _completions(path: Path, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """From a list of objects, as in the published file, or an object of lists, as `datasets` gives it."""
    found = row["completions"]
    if isinstance(found, dict) and all(isinstance(values, list) for values in found.values()):
        if len({len(values) for values in found.values()}) > 1:
            raise DataError(f"{path}: row {row.get('id')!r}: lists of completions differ in length")
        found = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    if not isinstance(found, list) or not all(isinstance(completion, dict) for completion in found):
        raise DataError(f"{path}: row {row.get('id')!r}: completions must be a list of objects, or an object of lists")
    return found


def find_number(value: Any) -> float | None:
    """A finite number; None for anything else, such as "N/A"."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _align(
    first: Sequence[Rated], second: Sequence[Rated]
) -> tuple[list[str], Agreement, list[float | None], list[float | None]]:
    """The ids in both, the agreement of the raters' first ratings of them, and these ratings."""
    ours = {rated.id: rated for rated in reversed(first)}
    theirs = {rated.id: rated for rated in reversed(second)}
    ids = [name for name in dict.fromkeys(rated.id for rated in first) if name in theirs]
    if not ids:
        raise DataError("the two have no id in common")
    a, b = [ours[name].rating for name in ids], [theirs[name].rating for name in ids]
    if not any(x is not None and y is not None for x, y in zip(a, b, strict=True)):
        raise DataError("no item is rated by both")
    return ids, agree(a, b, groups=_group_ids(first, second, ids)), a, b


def _group_ids(first: Sequence[Rated], second: Sequence[Rated], ids: Sequence[str]) -> list[str]:
    """The group of each id, from the file with fewer groups."""
    known = [{rated.id: rated.group for rated in rater} for rater in (first, second)]
    return min(([groups[name] for name in ids] for groups in known), key=lambda groups: len(set(groups)))


MEASURES = {
    "exact": "same rating, %",
    "within_one": "within one, %",
    "kappa": "Cohen's kappa",
    "weighted_kappa": "quadratic kappa",
    "spearman": "Spearman",
    "alpha": "Krippendorff's alpha",
    "bias": "second minus first",
}


def report(first: Sequence[Rated], second: Sequence[Rated], names: tuple[str, str], as_json: bool = False) -> str:
    """The agreement of `second` with `first`, the effects of position and length on each, and the largest
    disagreements."""
    ids, found, a, b = _align(first, second)
    only = len({rated.id for rated in (*first, *second)}) - len(ids)
    worst = largest_disagreements(ids, a, b)
    lengths = {rated.text: rated.length for rated in (*first, *second) if rated.length is not None}
    habits = {name: _measure_habits(rated, lengths) for name, rated in zip(names, (first, second), strict=True)}
    if as_json:
        numbers = asdict(found) | {"only_one": only, "habits": habits, "largest": [list(row) for row in worst]}
        return json.dumps(_replace_nan(numbers))
    rows = [[label, _format_measure(getattr(found, name), signed=name == "bias")] for name, label in MEASURES.items()]
    counts = f"{found.items} items rated by both, {found.left_out} without a rating, {only} of one only"
    if found.groups < found.items:
        counts += f"; intervals over {found.groups} groups of items"
    text = f"{cell(names[0])} and {cell(names[1])}: {counts}\n\n"
    text += table(["measure", "value [95% interval]"], rows)
    lines = [[cell(name), cell(habit), value] for name, own in habits.items() for habit, value in _make_rows(own)]
    if lines:
        text += "\n\n" + table(["rater", "habit", "value"], lines)
    if worst:
        rows = [[cell(name), f"{x:g}", f"{y:g}"] for name, x, y in worst]
        text += "\n\n" + table(["largest disagreements", *map(cell, names)], rows)
    return text


@dataclass(frozen=True, kw_only=True)
class _Text:
    """One text and its rating: the mean over its aspects, which are not independent."""

    item: str
    rating: float | None
    position: int | None
    length: float | None


def _average_aspects(rated: Sequence[Rated], lengths: Mapping[str, float]) -> list[_Text]:
    """The texts of the first repeat; one that lacks the rating of an aspect has no rating."""
    first = min(r.repeat for r in rated)
    found: dict[tuple[str, str], list[Rated]] = {}
    for r in rated:
        if r.repeat == first:
            found.setdefault((r.item, r.text), []).append(r)
    texts = []
    for (item, text), aspects in found.items():
        known = [r.rating for r in aspects if r.rating is not None]
        mean = sum(known) / len(known) if len(known) == len(aspects) else None
        texts.append(_Text(item=item, rating=mean, position=aspects[0].position, length=lengths.get(text)))
    return texts


def _measure_habits(rated: Sequence[Rated], lengths: Mapping[str, float]) -> dict[str, Any]:
    habits: dict[str, Any] = {}
    texts = _average_aspects(rated, lengths)
    placed = [(t.item, t.position, t.rating) for t in texts if t.position is not None]
    if placed:
        found = asdict(position_bias(*zip(*placed, strict=True)))
        habits["position"] = found | {"means": {str(at): mean for at, mean in found["means"].items()}}
    long = [(t.item, t.length, t.rating) for t in texts if t.length is not None]
    if long:
        habits["verbosity"] = asdict(verbosity_bias(*zip(*long, strict=True)))
    repeats = sorted({r.repeat for r in rated})
    if len(repeats) > 1:
        names = list(dict.fromkeys(r.id for r in rated))
        by = {(r.id, r.repeat): r.rating for r in rated}
        habits["repeats"] = asdict(self_consistency([[by.get((name, repeat)) for name in names] for repeat in repeats]))
    return habits


def _make_rows(habits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "position" in habits:
        found = habits["position"]
        means = ", ".join(f"{at}: {mean:.2f}" for at, mean in found["means"].items())
        yield "mean rating by position", means or MISSING
        left_out = f", {found['left_out']} left out" if found["left_out"] else ""
        p, effect = _format_number(found["p"]), _format_number(found["effect"])
        tested = f"p {p}, effect {effect} ({found['items']} items{left_out})"
        yield f"position: {found['test']}", MISSING if found["test"] == "none" else tested
    if "verbosity" in habits:
        values = " / ".join(map(_format_number, habits["verbosity"].values()))
        yield "Spearman of rating with length, all / within an item", values
    if "repeats" in habits:
        found = habits["repeats"]
        shown = " / ".join(_format_number(found[name]) for name in ("same", "alpha", "spread"))
        counts = f"({found['items']} items, {found['left_out']} left out)"
        yield "same in all repeats, % / Krippendorff's alpha / spread", f"{shown} {counts}"


def calibration(published: Sequence[Rated], new: Sequence[Rated], names: tuple[str, str]) -> dict[str, str]:
    """Provenance for entries of the new judge: its agreement with published ratings, in a sentence."""
    _, found, _, _ = _align(published, new)
    kappa, spearman = _format_measure(found.weighted_kappa), _format_measure(found.spearman)
    measures = f"quadratic kappa {kappa}, Spearman {spearman}, bias {_format_measure(found.bias, signed=True)}"
    return {"judge calibration": f"{line(names[1])} against {line(names[0])} on {found.items} ratings: {measures}"}


def _format_measure(measured: Measured, *, signed: bool = False) -> str:
    value = f"{'+' if signed and measured.value > 0 else ''}{_format_number(measured.value)}"
    return (
        value
        if math.isnan(measured.low)
        else f"{value} [{_format_number(measured.low)}, {_format_number(measured.high)}]"
    )


def _format_number(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value + 0.0:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _replace_nan(value: Any) -> Any:
    """The value with None in place of nan, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _replace_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replace_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
