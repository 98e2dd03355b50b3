"""Trainings that differ by their seed alone, as one row of a board.

    groups = groups_by_recipe(board.current())
    shown = with_groups(board.current(), groups, samples=board.samples, metrics=metric_of, notes=[])

A row's value is the mean of its seeds' scores, its interval that of `seed_groups`: over seeds and images. Its
provenance names the runs behind it, whose logs tests need (`Logs.of_seeds`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import takewhile
from typing import Final

import numpy as np

from leaderboards.board.entry import RECIPE, SEED_RUNS, SEEDS, TRAINING_SAVE, TRAINING_SEED, Entry
from leaderboards.comparison.paired_logs import Loader, Logs, Metrics, match_seeds
from leaderboards.statistics.edge_intervals import Ends
from leaderboards.statistics.resampling import Counted
from leaderboards.statistics.seed_groups import seeds_interval
from leaderboards.views.columns import columns_of
from support.markdown import line

_OF_ONE_RUN: Final = frozenset(
    {"weights", "adapter", "fingerprint", "configuration", "training data", TRAINING_SEED, "seed", "commit", "device"}
)
"""Facts that are of one training, or of one run of scoring."""


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Models that are trainings with different seeds."""

    name: str
    models: tuple[str, ...]


def group_of(models: Sequence[str]) -> SeedGroup:
    """These models as a group, named by what their names share: runs/x-seed*/checkpoint-40."""
    start = _shared_start(models)
    end = _shared_start([model[len(start) :][::-1] for model in models])[::-1]
    return SeedGroup(name=f"{start}*{end}", models=tuple(models))


def _shared_start(names: Sequence[str]) -> str:
    return "".join(letters[0] for letters in takewhile(lambda own: len(set(own)) == 1, zip(*names, strict=False)))


def groups_by_recipe(entries: Sequence[Entry]) -> list[SeedGroup]:
    """Checkpoints whose recipe differs by its seed alone, at the same save, of two seeds or more.

    Of several with one seed the first counts: the others would be the same training again.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        known = entry.provenance
        recipe, seed, save = (known.get(fact) for fact in (RECIPE, TRAINING_SEED, TRAINING_SAVE))
        if recipe is not None and seed is not None and save is not None:
            found.setdefault((recipe, save), {}).setdefault(seed, entry.model)
    return [group_of(list(dict.fromkeys(seeds.values()))) for seeds in found.values() if len(seeds) > 1]


def with_groups(
    entries: Sequence[Entry], groups: Sequence[SeedGroup], *, samples: Loader, metrics: Metrics, notes: list[str]
) -> list[Entry]:
    """The entries with a row for each group in place of its seeds'.

    A metric that a seed lacks has no row; what can't be counted gives a row without an interval. `notes` says both.
    """
    logs, grouped = Logs(samples), {model: group for group in groups for model in group.models}
    rows: dict[int, Entry] = {}
    for column in columns_of(entries).values():
        for group in groups:
            own = [entry for entry in column if entry.model in group.models]
            if not own:
                continue
            name = line(f"{group.name} by {own[0].task} {own[0].metric}")
            if len(own) < len(group.models):
                notes.append(f"no row of {name}: {len(own)} of {len(group.models)} seeds have a score")
                continue
            rows[id(own[0])] = _row_of(group, own, _interval(own, logs, metrics, notes))
    return [rows.get(id(entry), entry) for entry in entries if entry.model not in grouped or id(entry) in rows]


def _interval(own: Sequence[Entry], logs: Logs, metrics: Metrics, notes: list[str]) -> Ends:
    metric = metrics(own[0].task, own[0].metric)
    name = line(f"{own[0].task} {own[0].metric}")
    if metric is None:
        return None, None
    try:
        found = [logs.of(entry) for entry in own]
        if not all(found):
            notes.append(f"no interval over seeds of {name}: a seed has no sample log")
            return None, None
        match = match_seeds(
            found[:1],
            found[1:],
            own[0].metric,
            lambda records: Counted(records, metric),
            higher_is_better=own[0].higher_is_better,
        )
    except (ValueError, OSError) as error:
        notes.append(f"no interval over seeds of {name}: {line(str(error))}")
        return None, None
    return seeds_interval(metric, [*match.base, *match.other], match.parts)


def _row_of(group: SeedGroup, own: Sequence[Entry], ends: Ends) -> Entry:
    """The row of a group by one metric: a mean over seeds, and sums of what was asked and paid."""
    first, values = own[0], [entry.value for entry in own if entry.value is not None]
    shared = {
        fact: value
        for fact, value in first.provenance.items()
        if fact not in _OF_ONE_RUN and all(entry.provenance.get(fact) == value for entry in own)
    }
    seeds = [entry.provenance.get(TRAINING_SEED) for entry in own]
    shared[SEEDS] = ", ".join(map(str, seeds)) if None not in seeds else f"{len(own)} of unknown number"
    shared[SEED_RUNS] = ", ".join(entry.run for entry in own)
    value = float(np.mean(values)) if len(values) == len(own) else None
    low, high = ends if value is not None else (None, None)
    empty = [entry.empty for entry in own if entry.empty is not None]
    names = [name for name in first.guards if all(name in entry.guards for entry in own)]
    return replace(
        first,
        run=f"seeds-{sha256(shared[SEED_RUNS].encode()).hexdigest()[:12]}",
        model=group.name,
        value=value,
        low=None if low is None or value is None else min(low, value),
        high=None if high is None or value is None else max(high, value),
        **{name: sum(getattr(entry, name) for entry in own) for name in ("samples", "unscored", "failed", "unparsed")},
        empty=sum(empty) if len(empty) == len(own) else None,
        guards={name: float(np.mean([entry.guards[name] for entry in own])) for name in names},
        seconds=sum(entry.seconds for entry in own),
        cost=sum(entry.cost for entry in own),
        created=max(own, key=lambda entry: entry.when).created,
        sequence=0,
        provenance=shared,
    )
