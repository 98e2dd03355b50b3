"""What `harness judge agree` and `calibrate` print: two sets of ratings of the same items, held against each other.

    print(report(read_ratings(Path("gpt4v.jsonl")), read_ratings(Path("mine.csv")), names=("gpt4v", "mine")))

Ratings come from a table (CSV or JSON lines) with id and rating, and if there are: item and position (the texts of one item and where they
stood), length or text, repeat; from a sample log of ours (.parquet), from what `harness vlfeedback annotate` keeps, or from rows in
VLFeedback's public form.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leaderboards.agreement import (
    Agreement,
    Measured,
    agree,
    largest_disagreements,
    position_bias,
    self_consistency,
    verbosity_bias,
)
from leaderboards.report import MISSING, cell, table


class RatingsError(ValueError):
    """A file of ratings can't be read, or two have nothing in common."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One rating."""

    id: str
    rating: float | None
    item: str
    """What was rated together in one prompt."""
    position: int | None = None
    length: float | None = None
    """In words."""
    repeat: int = 0


def read_ratings(path: Path) -> list[Rated]:
    """The ratings in a file; RatingsError where it is none, or rates an item twice."""
    try:
        found = _of_sample_log(path) if path.suffix == ".parquet" else [rated for row in _rows(path) for rated in _rated(path, row)]
    except OSError as error:
        raise RatingsError(f"{path}: {error.strerror}") from None
    if not found:
        raise RatingsError(f"{path}: holds no ratings")
    seen: set[tuple[str, int]] = set()
    for rated in found:
        if (rated.id, rated.repeat) in seen:
            raise RatingsError(f"{path}: {rated.id!r} is rated twice; repeats need a column `repeat`")
        seen.add((rated.id, rated.repeat))
    return found


def _of_sample_log(path: Path) -> list[Rated]:
    from leaderboards.sample import from_parquet

    try:
        samples = from_parquet(path.read_bytes())
    except ValueError as error:
        raise RatingsError(f"{path}: no sample log: {error}") from None
    found = []
    for sample in samples:
        values = [record[name] for record in sample.records.values() for name in ("rating", "grade", "model") if name in record]
        if sample.reply is not None or values:
            rating = float(values[0]) if values else None
            length = float(len(sample.answer.split())) if sample.answer is not None else None
            name = f"{sample.task}/{sample.id}"
            found.append(Rated(id=name, rating=rating, item=name, length=length))
    return found


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RatingsError(f"{path}: no text: {error}") from None
    if path.suffix in (".csv", ".tsv"):
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
    try:
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise RatingsError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RatingsError(f"{path}: must hold objects, in a list or one a line")
    return rows


def _rated(path: Path, row: Mapping[str, Any]) -> Iterator[Rated]:
    if "completions" in row:
        yield from _of_vlfeedback(row)
        return
    if isinstance(row.get("ratings"), dict) and isinstance(row.get("order"), list):
        yield from _of_annotation(row)
        return
    if row.get("id") in (None, "") or "rating" not in row:
        raise RatingsError(f"{path}: a row lacks id or rating; it has {', '.join(map(str, row))}")
    name = str(row["id"]) + (f"/{row['aspect']}" if row.get("aspect") else "")
    length = _number(row.get("length"))
    if length is None and isinstance(row.get("text"), str):
        length = float(len(row["text"].split()))
    position, repeat = _number(row.get("position")), _number(row.get("repeat"))
    yield Rated(
        id=name,
        rating=_number(row["rating"]),
        item=str(row.get("item") or name),
        position=None if position is None else int(position),
        length=length,
        repeat=int(repeat or 0),
    )


def _of_annotation(row: Mapping[str, Any]) -> Iterator[Rated]:
    """Each aspect of each text, as `harness vlfeedback annotate` keeps them, with where the text stood."""
    for member, aspects in row["ratings"].items():
        position = row["order"].index(member) + 1 if member in row["order"] else None
        for aspect, rating in aspects.items():
            item = f"{row.get('id')}/{aspect}"
            yield Rated(id=f"{row.get('id')}/{member}/{aspect}", rating=_number(rating), item=item, position=position)


def _of_vlfeedback(row: Mapping[str, Any]) -> Iterator[Rated]:
    """Each aspect of each completion; completions may be a list of objects or an object of lists."""
    completions = row["completions"]
    if isinstance(completions, dict):
        names = list(completions)
        completions = [dict(zip(names, values, strict=True)) for values in zip(*completions.values(), strict=True)]
    for completion in completions:
        for aspect, note in (completion.get("annotations") or {}).items():
            rating = _number(note.get("Rating")) if isinstance(note, dict) else None
            item = f"{row.get('id')}/{aspect}"
            length = float(len(str(completion.get("response", "")).split()))
            yield Rated(id=f"{row.get('id')}/{completion.get('model')}/{aspect}", rating=rating, item=item, length=length)


def _number(value: Any) -> float | None:
    """A rating as people write it; None where there is none ("N/A", empty)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _aligned(first: Sequence[Rated], second: Sequence[Rated]) -> tuple[list[str], list[float | None], list[float | None]]:
    """Ids in both, and both raters' first ratings of them."""
    ours = {rated.id: rated.rating for rated in reversed(first)}
    theirs = {rated.id: rated.rating for rated in reversed(second)}
    ids = [name for name in dict.fromkeys(rated.id for rated in first) if name in theirs]
    if not ids:
        raise RatingsError("the two have no id in common")
    if not any(ours[name] is not None and theirs[name] is not None for name in ids):
        raise RatingsError("no item is rated by both")
    return ids, [ours[name] for name in ids], [theirs[name] for name in ids]


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
    ids, a, b = _aligned(first, second)
    found = agree(a, b)
    only = len({rated.id for rated in (*first, *second)}) - len(ids)
    worst = largest_disagreements(ids, a, b)
    habits = {name: _habits(rated) for name, rated in zip(names, (first, second), strict=True)}
    if as_json:
        numbers = asdict(found) | {"only_one": only, "habits": habits, "largest": [list(row) for row in worst]}
        return json.dumps(_finite(numbers))
    rows = [[label, _shown(getattr(found, name))] for name, label in MEASURES.items()]
    counts = f"{found.items} items rated by both, {found.left_out} without a rating, {only} of one only"
    text = f"{cell(names[0])} and {cell(names[1])}: {counts}\n\n"
    text += table(["measure", "value [95% interval]"], rows)
    lines = [[cell(name), cell(habit), value] for name, own in habits.items() for habit, value in _habit_rows(own)]
    if lines:
        text += "\n\n" + table(["rater", "habit", "value"], lines)
    if worst:
        text += "\n\n" + table(["largest disagreements", *map(cell, names)], [[cell(i), f"{x:g}", f"{y:g}"] for i, x, y in worst])
    return text


def _habits(rated: Sequence[Rated]) -> dict[str, Any]:
    habits: dict[str, Any] = {}
    placed = [r for r in rated if r.position is not None]
    if placed:
        found = position_bias([r.item for r in placed], [r.position or 0 for r in placed], [r.rating for r in placed])
        habits["position"] = {"means": {str(at): mean for at, mean in found.means.items()}, "p": found.p}
    long = [r for r in rated if r.length is not None]
    if long:
        habits["verbosity"] = asdict(verbosity_bias([r.item for r in long], [r.length or 0.0 for r in long], [r.rating for r in long]))
    repeats = sorted({r.repeat for r in rated})
    if len(repeats) > 1:
        names = list(dict.fromkeys(r.id for r in rated))
        by = {(r.id, r.repeat): r.rating for r in rated}
        habits["repeats"] = asdict(self_consistency([[by.get((name, repeat)) for name in names] for repeat in repeats]))
    return habits


def _habit_rows(habits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "position" in habits:
        means = ", ".join(f"{at}: {mean:.2f}" for at, mean in habits["position"]["means"].items())
        yield "mean rating by position", f"{means} (p {_plain(habits['position']['p'])})"
    if "verbosity" in habits:
        yield "Spearman of rating with length, all / within an item", " / ".join(_plain(value) for value in habits["verbosity"].values())
    if "repeats" in habits:
        yield "same in all repeats, % / spread", " / ".join(_plain(value) for value in habits["repeats"].values())


def calibration(published: Sequence[Rated], new: Sequence[Rated], names: tuple[str, str]) -> dict[str, str]:
    """What an entry of the new judge may carry: how it agrees with published ratings, in a sentence."""
    _, a, b = _aligned(published, new)
    found: Agreement = agree(a, b)
    sentence = (
        f"{names[1]} against {names[0]} on {found.items} ratings: quadratic kappa {_shown(found.weighted_kappa)}, "
        f"Spearman {_shown(found.spearman)}, bias {_shown(found.bias)}"
    )
    return {"judge calibration": sentence}


def _shown(measured: Measured) -> str:
    return f"{_plain(measured.value)} [{_plain(measured.low)}, {_plain(measured.high)}]"


def _plain(value: float) -> str:
    return MISSING if value != value else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _finite(value: Any) -> Any:
    """nan as null, which JSON knows."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
