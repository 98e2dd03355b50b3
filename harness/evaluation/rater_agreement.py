"""What `harness judge agree` and `calibrate` print: two sets of ratings of the same items, held against each other.

    print(report(read_ratings(Path("gpt4v.jsonl")), read_ratings(Path("mine.csv")), names=("gpt4v", "mine")))

Ratings come from a table (CSV or JSON lines) with id and rating, and if there are: aspect, item and position (the texts
of one item and where they stood), length or text, repeat; from a sample log of ours (.parquet), from what `harness
vlfeedback annotate` keeps, or from rows in VLFeedback's public form.
"""

import csv
import hashlib
import io
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


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One rating."""

    id: str
    """Of what was rated, the aspect included."""
    rating: float | None
    item: str
    """What was rated together in one prompt."""
    text: str
    """What was rated; the same for all its aspects."""
    group: str
    """Ratings that depend on each other, as those of one prompt or about one image do."""
    position: int | None = None
    length: float | None = None
    """In words."""
    repeat: int = 0


def read_ratings(path: Path) -> list[Rated]:
    """The ratings in a file; DataError where it is none, or rates an item twice."""
    try:
        found = _of_sample_log(path) if path.suffix == ".parquet" else _of_rows(path, _rows(path))
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
"""Where records of judged tasks keep what the judge gave."""


def _of_sample_log(path: Path) -> list[Rated]:
    from leaderboards.board.sample import from_parquet

    try:
        samples = from_parquet(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: no sample log: {line(str(error))}") from None
    found = []
    for sample in samples:
        records = list(sample.records.values())
        values = [_number(record[name]) for record in records for name in _JUDGED if name in record]
        if sample.reply is None and not values:
            continue
        unread = any(
            record.get("unrated") or record.get("unparsed") for record in records
        )  # counted as 0, and no rating
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


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text: {error}") from None
    if path.suffix in (".csv", ".tsv"):
        try:
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
        except csv.Error as error:
            raise DataError(f"{path}: no table: {error}") from None
    try:
        rows = (
            json.loads(text) if path.suffix == ".json" else [json.loads(row) for row in text.split("\n") if row.strip()]
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: must hold objects, in a list or one a line")
    return rows


def _of_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Rated]:
    names = iter(_public_names(path, [row for row in rows if "completions" in row]))
    found: list[Rated] = []
    for row in rows:
        if "completions" in row:
            found += _of_vlfeedback(path, row, next(names))
        elif isinstance(row.get("ratings"), dict) and isinstance(row.get("order"), list):
            found += _of_annotation(path, row)
        else:
            found.append(_of_table(path, row))
    return found


def _of_table(path: Path, row: Mapping[str, Any]) -> Rated:
    if row.get("id") in (None, "") or "rating" not in row:
        raise DataError(f"{path}: a row lacks id or rating; it has {', '.join(line(str(name)) for name in row)}")
    text = str(row["id"])
    aspect = f"/{row['aspect']}" if row.get("aspect") else ""
    item = text if row.get("item") in (None, "") else str(row["item"])
    length = _number(row.get("length"))
    if length is None and isinstance(row.get("text"), str):
        length = float(len(row["text"].split()))
    position, repeat = _number(row.get("position")), _number(row.get("repeat"))
    return Rated(
        id=text + aspect,
        rating=_number(row["rating"]),
        item=item,
        text=text,
        group=item,
        position=None if position is None else int(position),
        length=length,
        repeat=int(repeat or 0),
    )


def _of_annotation(path: Path, row: Mapping[str, Any]) -> Iterator[Rated]:
    """Each aspect of each text, as `harness vlfeedback annotate` keeps them, with where the text stood."""
    item = str(row.get("id"))
    for member, aspects in row["ratings"].items():
        if not isinstance(aspects, dict):
            raise DataError(f"{path}: row {item!r}: ratings of {member!r} must be an object of aspects")
        position = row["order"].index(member) + 1 if member in row["order"] else None
        text = f"{item}/{member}"
        for aspect, rating in aspects.items():
            yield Rated(
                id=f"{text}/{aspect}", rating=_number(rating), item=item, text=text, group=item, position=position
            )


def _public_names(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' ids; those that stand for several rows, as many of VLFeedback's do, get a digest of what was asked and
    answered."""
    shared = Counter(str(row.get("id")) for row in rows)
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        name = str(row.get("id"))
        if shared[name] > 1:
            said = [[completion.get("model"), completion.get("response")] for completion in _completions(path, row)]
            name += "#" + hashlib.sha256(json.dumps([row.get("prompt"), said]).encode()).hexdigest()[:8]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return names


def _of_vlfeedback(path: Path, row: Mapping[str, Any], name: str) -> Iterator[Rated]:
    """Each aspect of each completion."""
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
            rating = _number(note.get("Rating")) if isinstance(note, dict) else None
            yield Rated(id=f"{text}/{aspect}", rating=rating, item=name, text=text, group=name, length=length)


def _completions(path: Path, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A list of objects, as in the published file, or an object of lists, as `datasets` gives it."""
    found = row["completions"]
    if isinstance(found, dict) and all(isinstance(values, list) for values in found.values()):
        if len({len(values) for values in found.values()}) > 1:
            raise DataError(f"{path}: row {row.get('id')!r}: lists of completions differ in length")
        found = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    if not isinstance(found, list) or not all(isinstance(completion, dict) for completion in found):
        raise DataError(f"{path}: row {row.get('id')!r}: completions must be a list of objects, or an object of lists")
    return found


def _number(value: Any) -> float | None:
    """A rating as people write it; None where there is none ("N/A", empty)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _aligned(
    first: Sequence[Rated], second: Sequence[Rated]
) -> tuple[list[str], Agreement, list[float | None], list[float | None]]:
    """Ids in both, how the raters' first ratings of them agree, and these."""
    ours = {rated.id: rated for rated in reversed(first)}
    theirs = {rated.id: rated for rated in reversed(second)}
    ids = [name for name in dict.fromkeys(rated.id for rated in first) if name in theirs]
    if not ids:
        raise DataError("the two have no id in common")
    a, b = [ours[name].rating for name in ids], [theirs[name].rating for name in ids]
    if not any(x is not None and y is not None for x, y in zip(a, b, strict=True)):
        raise DataError("no item is rated by both")
    return ids, agree(a, b, groups=_groups(first, second, ids)), a, b


def _groups(first: Sequence[Rated], second: Sequence[Rated], ids: Sequence[str]) -> list[str]:
    """What each id belongs to, in the words of the file that knows of more dependence."""
    found = []
    for rater in (first, second):
        group = {rated.id: rated.group for rated in rater}
        found.append([group[name] for name in ids])
    return min(found, key=lambda groups: len(set(groups)))


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
    """How `second` agrees with `first`, what moves each, and where they differ most."""
    ids, found, a, b = _aligned(first, second)
    only = len({rated.id for rated in (*first, *second)}) - len(ids)
    worst = largest_disagreements(ids, a, b)
    lengths = {rated.text: rated.length for rated in (*first, *second) if rated.length is not None}
    habits = {name: _habits(rated, lengths) for name, rated in zip(names, (first, second), strict=True)}
    if as_json:
        numbers = asdict(found) | {"only_one": only, "habits": habits, "largest": [list(row) for row in worst]}
        return json.dumps(_finite(numbers))
    rows = [[label, _shown(getattr(found, name), signed=name == "bias")] for name, label in MEASURES.items()]
    counts = f"{found.items} items rated by both, {found.left_out} without a rating, {only} of one only"
    if found.groups < found.items:
        counts += f"; intervals over {found.groups} groups of items"
    text = f"{cell(names[0])} and {cell(names[1])}: {counts}\n\n"
    text += table(["measure", "value [95% interval]"], rows)
    lines = [[cell(name), cell(habit), value] for name, own in habits.items() for habit, value in _habit_rows(own)]
    if lines:
        text += "\n\n" + table(["rater", "habit", "value"], lines)
    if worst:
        text += "\n\n" + table(
            ["largest disagreements", *map(cell, names)], [[cell(i), f"{x:g}", f"{y:g}"] for i, x, y in worst]
        )
    return text


@dataclass(frozen=True, kw_only=True)
class _Text:
    """One text's rating: the mean over its aspects, since these are no independent witnesses."""

    item: str
    rating: float | None
    position: int | None
    length: float | None


def _texts(rated: Sequence[Rated], lengths: Mapping[str, float]) -> list[_Text]:
    """Of the first repeat; a text that lacks an aspect's rating has none."""
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


def _habits(rated: Sequence[Rated], lengths: Mapping[str, float]) -> dict[str, Any]:
    habits: dict[str, Any] = {}
    texts = _texts(rated, lengths)
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


def _habit_rows(habits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "position" in habits:
        found = habits["position"]
        means = ", ".join(f"{at}: {mean:.2f}" for at, mean in found["means"].items())
        yield "mean rating by position", means or MISSING
        left_out = f", {found['left_out']} left out" if found["left_out"] else ""
        tested = f"p {_plain(found['p'])}, effect {_plain(found['effect'])} ({found['items']} items{left_out})"
        yield f"position: {found['test']}", MISSING if found["test"] == "none" else tested
    if "verbosity" in habits:
        yield (
            "Spearman of rating with length, all / within an item",
            " / ".join(_plain(value) for value in habits["verbosity"].values()),
        )
    if "repeats" in habits:
        found = habits["repeats"]
        shown = " / ".join(_plain(found[name]) for name in ("same", "alpha", "spread"))
        yield (
            "same in all repeats, % / Krippendorff's alpha / spread",
            f"{shown} ({found['items']} items, {found['left_out']} left out)",
        )


def calibration(published: Sequence[Rated], new: Sequence[Rated], names: tuple[str, str]) -> dict[str, str]:
    """What an entry of the new judge may carry: how it agrees with published ratings, in a sentence."""
    _, found, _, _ = _aligned(published, new)
    sentence = (
        f"{line(names[1])} against {line(names[0])} on {found.items} ratings: quadratic kappa {_shown(found.weighted_kappa)}, "
        f"Spearman {_shown(found.spearman)}, bias {_shown(found.bias, signed=True)}"
    )
    return {"judge calibration": sentence}


def _shown(measured: Measured, *, signed: bool = False) -> str:
    value = f"{'+' if signed and measured.value > 0 else ''}{_plain(measured.value)}"
    return value if math.isnan(measured.low) else f"{value} [{_plain(measured.low)}, {_plain(measured.high)}]"


def _plain(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value + 0.0:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _finite(value: Any) -> Any:
    """nan as null, which JSON knows."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
