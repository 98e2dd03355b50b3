"""What a benchmark of judges found, as it is printed, and as it is kept and read again.

    result = Result(bench="scenes", judge="scenes", settings={...}, created=now(), compared=tuple(compared))
    file = result.keep(Path("runs/judge-bench"))
    print(Result.read(file).table())

A file holds what was chosen of every pair. Its figures are computed from that whenever it is read, so that a file and a
newer rule can't disagree; those in the file are for other programs.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from harness.judge_bench.ask import Call, Compared
from harness.judge_bench.benches import bench_of
from harness.judge_bench.figures import Figure, Figures, figures_of
from support.errors import DataError, one_line
from support.files import atomic_write_text
from support.judge_names import current_judge
from support.markdown import MISSING, cell, line, number, span, table
from support.parsing import parse_object
from tasks.judges.reasons import reasons_in_words

SCHEMA: Final = 1
UNIT: Final = "%"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One judge, or one model's reward, on one benchmark."""

    bench: str
    judge: str
    """Its name, or whose reward it is."""
    settings: Mapping[str, str]
    """All else that decides the result, as text."""
    created: str
    compared: tuple[Compared, ...]

    @cached_property
    def figures(self) -> Figures:
        """The accuracies; DataError."""
        return figures_of(bench_of(self.bench), self.compared)

    def facts(self) -> dict[str, Any]:
        """All but the pairs, as JSON."""
        found = {"schema": SCHEMA, "bench": self.bench, "judge": self.judge, "created": self.created}
        figures = asdict(self.figures)
        published = [asdict(judge) for judge in bench_of(self.bench).published]
        return {**found, "settings": dict(self.settings), **figures, "published": published}

    def keep(self, folder: Path) -> Path:
        """Write it; the file, whose name is another for other settings."""
        identity = json.dumps([self.bench, self.judge, dict(self.settings)], sort_keys=True)
        digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.judge).strip("-.")[:60]
        file = folder / f"{self.bench}-{name}-{digest}.json"
        pairs = [asdict(one) for one in self.compared]
        atomic_write_text(file, json.dumps({**self.facts(), "compared": pairs}, indent=1) + "\n")
        return file

    @classmethod
    def read(cls, path: Path) -> "Result":
        """The result in a file that `keep` wrote; DataError."""
        try:
            found = parse_object(path.read_bytes())
            if found["schema"] != SCHEMA:
                raise ValueError(f"schema {found['schema']!r}, known: {SCHEMA}")
            compared = tuple(
                Compared(**{**one, "calls": tuple(Call(**call) for call in one["calls"])}) for one in found["compared"]
            )
            facts = {name: found[name] for name in ("bench", "judge", "settings", "created")}
            facts["judge"] = current_judge(facts["judge"])
            result = cls(**facts, compared=compared)
            _ = result.figures  # a file that holds something else has none
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is no result of harness judge bench: {one_line(error)}") from None
        return result

    def table(self) -> str:
        """The figures, and what others reported, in markdown."""
        bench, found = bench_of(self.bench), self.figures
        title = f"## {bench.title}: {cell(self.judge)}"
        parts = [title, self._counts(), _rows("accuracy", found.accuracy)]
        if found.beside:
            parts += [_rows("in both orders", found.beside)]
        if bench.published:
            parts += ["Reported by others, of other prompts or versions:", self._published()]
        if bench.note:
            parts.append(line(bench.note))
        return "\n\n".join(parts)

    def _counts(self) -> str:
        found = self.figures
        counts = [f"{found.pairs} pairs"]
        if found.lost:
            counts.append(f"{found.lost} without a score ({cell(reasons_in_words(found.reasons))})")
        if found.unread:
            coin, vote = "a verdict, decided by the official coin", "a majority of verdicts for either answer, left out"
            first = next((call.unread for one in self.compared for call in one.calls if call.unread), "")
            such_as = f" (the first reply without one: {cell(first)})" if first else ""
            counts.append(f"{found.unread} without {coin if bench_of(self.bench).guesses else vote}{such_as}")
        if any(one.rewards for one in self.compared):
            counts.append(f"{found.ties} ties, which count as half")
        settings = "; ".join(f"{line(name)}: {line(value)}" for name, value in self.settings.items())
        return f"{', '.join(counts)}. {cell(settings)}"

    def _published(self) -> str:
        names = list(dict.fromkeys(name for judge in bench_of(self.bench).published for name in judge.scores))
        rows = [
            [cell(judge.model), *(number(judge.scores.get(name), UNIT) for name in names), cell(judge.source)]
            for judge in bench_of(self.bench).published
        ]
        return table(["judge", *map(cell, names), "source"], rows)


def _rows(head: str, figures: tuple[Figure, ...]) -> str:
    rows = [
        [
            cell(figure.name),
            number(figure.value, UNIT),
            span(figure.low, figure.high, UNIT).strip() or MISSING,
            str(figure.pairs),
        ]
        for figure in figures
    ]
    return table([head, UNIT, "95% interval", "pairs"], rows)
