"""Trainings with several seeds against a base, by the boards of their run folders."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.evaluation.find_boards import current_entries, find_seeds, loader_of, metric_of
from harness.evaluation.guards import guards_of
from leaderboards.board.board import Board
from leaderboards.comparison.compare import compare_runs
from leaderboards.comparison.seed_rows import SeedGroup, with_groups
from support.errors import UsageError

if TYPE_CHECKING:
    from leaderboards.comparison.compare import Comparison


def compare_seeds(
    runs: Sequence[str],
    base: Sequence[str],
    boards: Sequence[Board],
    *,
    partial: bool = False,
    only_headline: bool = False,
) -> "Comparison":
    """The mean of the seeds that `runs` name against `base`, one model or seeds of its own; see `find_seeds`.

    UsageError for a name without a model, for a single seed, and for a model on both sides.
    """
    groups = [find_seeds(patterns, boards, partial=partial) for patterns in (base, runs)]
    if both := sorted(set(groups[0].models) & set(groups[1].models)):
        raise UsageError(f"{both[0]} is named by --runs and by --base")
    if len(groups[1].models) < 2:
        raise UsageError(f"--runs {runs[0]!r} is {groups[1].models[0]} alone; give two seeds or more")
    return compare_groups(groups, boards, partial=partial, only_headline=only_headline)


def compare_groups(
    groups: Sequence[SeedGroup], boards: Sequence[Board], *, partial: bool = False, only_headline: bool = False
) -> "Comparison":
    """The second of two groups against the first; a group of one is a single model. CompareError without a score in
    common."""
    entries = [entry for board in boards for entry in current_entries(board, partial)]
    notes: list[str] = []
    several = [group for group in groups if len(group.models) > 1]
    load = loader_of(boards)
    shown = with_groups(entries, several, samples=load, metrics=metric_of, notes=notes)
    names = [group.name if group in several else group.models[0] for group in groups]
    found = compare_runs(
        *([entry for entry in shown if entry.model == name] for name in names),
        samples=(load, load),
        metrics=metric_of,
        guards=guards_of,
        only_headline=only_headline,
    )
    return replace(found, notes=[*map(_describe, several), *notes, *found.notes])


def _describe(group: SeedGroup) -> str:
    return f"{group.name}: {len(group.models)} seeds: {', '.join(group.models)}"
