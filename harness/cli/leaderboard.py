"""`harness leaderboard`: a board in print, as a page, or as files for others; without a model and without torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from harness.cli.board_options import RUNS, Folders, refuse
from harness.cli.outputs import check_target
from harness.cli.setting_options import OptionGroup, parse_pairs, with_settings
from harness.cli.shown import asked_form, show
from support.errors import FAILED, OK, DataError, UsageError

if TYPE_CHECKING:
    from leaderboards.board.board import Board
    from leaderboards.board.entry import Entry, Key
    from leaderboards.statistics.prediction_powered import Corrected
    from leaderboards.views.columns import BoardComparison
    from leaderboards.views.published import Reference

log = logging.getLogger(__name__)

EXPORTED: Final = RUNS / "exported"

ONE_SEED: Final = "no two checkpoints on the boards differ by their seed alone"


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions:
    """What of a board is shown, and in which form."""

    headline: bool = False
    """Only the metric that each task ranks by."""
    partial: bool = False
    """Include runs with --limit or on partial data."""
    base: str | None = None
    """Compare the other models with this one, on the same questions."""
    group_seeds: bool = False
    """Show trainings that differ by their seed alone as one row: the mean, over seeds and images."""
    ranks: bool = False
    """Show the range of ranks of each model; reads the sample logs."""
    published: bool = False
    """Also show what others reported for these tasks, in a table of its own."""
    human_labels: Path | None = None
    """Correct judged scores for the judge's errors by people's ratings: CSV or JSON lines with id and rating."""
    replaced: bool = False
    """Include rows of models that have other weights now, marked."""
    html: Path | None = None
    """Write one HTML page with charts, curves and flipped answers to this file."""
    pictures: bool = True
    """Put small copies of the images into the page."""
    output: Literal["lm-eval", "hub"] | None = None
    """Write each model's results into --out, in lm-eval's form or the hub's."""
    out: Path | None = None
    """Folder of --output; default: runs/exported."""
    source_url: str | None = None
    """With --output hub: a page with the evidence, linked from every result."""
    hub_task: tuple[str, ...] = ()
    """With --output hub: TASK=ID or TASK=OWNER/NAME/ID, the task's name in the benchmark's dataset; repeatable."""
    as_json: bool = False
    """Print JSON on stdout."""

    def check(self) -> None:
        """UsageError for options that contradict each other or would have no effect."""
        forms = {
            "--html": self.html is not None,
            f"--output {self.output}": self.output is not None,
            f"--format {asked_form()}": asked_form() is not None,
            "--json": self.as_json and asked_form() is None,
        }
        asked = [name for name, given in forms.items() if given]
        files, to_hub = self.output is not None, self.output == "hub"
        refuse(
            (len(asked) > 1, f"{' and '.join(asked)} are forms of one board: give one of them"),
            (not files and self.out is not None, "--out is for --output only"),
            (not to_hub and self.source_url is not None, "--source-url is for --output hub only"),
            (not to_hub and bool(self.hub_task), "--hub-task is for --output hub only"),
            (files and self.base is not None, "--base is not for --output, whose files hold scores alone"),
            (files and self.group_seeds, "--group-seeds is not for --output, whose files hold single models' scores"),
            (files and self.ranks, "--ranks is not for --output, whose files hold scores alone"),
            (files and self.published, "--published is not for --output, whose files hold own scores alone"),
            (
                files and self.human_labels is not None,
                "--human-labels is not for --output, whose files hold scores alone",
            ),
            (self.html is None and not self.pictures, "--no-pictures is for --html only"),
        )
        self.check_content()
        check_target("--html", self.html)
        check_target("--out", self.out or EXPORTED, folder=True)

    def check_content(self) -> None:
        """UsageError for rows and scores that exclude each other, whatever the form."""
        both = self.group_seeds and self.human_labels is not None
        refuse((both, "--human-labels is not for --group-seeds: it corrects single models' scores"))


SHOWN = OptionGroup(kind=LeaderboardOptions, names={"as_json": "json"}, environment=False)


@with_settings(shown=SHOWN)
def leaderboard_command(folders: Folders = None, *, shown: LeaderboardOptions) -> int:
    """Print the board: models by metrics.

    With intervals, ranks and the difference to a base; or write it as a page, or as files for others.
    """
    from harness.evaluation.find_boards import entries_of_boards, find_boards, references
    from leaderboards.views.published import rows

    shown.check()
    places = folders or [RUNS]
    boards = find_boards(places)
    entries = entries_of_boards(boards, shown.partial, shown.replaced)
    if not entries:
        raise UsageError(_explain_empty(boards, places))
    if shown.group_seeds:
        if (grouped := _group_seeds(boards, entries)) is None:
            raise UsageError(f"--group-seeds: {ONE_SEED}")
        entries = grouped
    if shown.output is not None:
        return _export([entry for entry in entries if entry.headline or not shown.headline], shown)
    reports = references() if shown.published else []
    if shown.published and not rows(entries, reports, only_headline=shown.headline):
        log.info("nothing is known here to be published of what was measured on this board")
    if shown.html is not None:
        from leaderboards.views.html_page import write_page

        text = _make_page(places, boards, entries, shown)
        write_page(shown.html, text)
        log.info(f"page: {shown.html} ({len(text) / 1e6:.1f} MB)")
    else:
        corrected = _correct(shown.human_labels, boards, entries, only_headline=shown.headline)
        _show(boards, entries, reports, corrected, shown)
    return OK


def _group_seeds(boards: "Sequence[Board]", entries: "Sequence[Entry]") -> "list[Entry] | None":
    """With rows in place of seeds; None where no recipe was trained with several."""
    from harness.evaluation.find_boards import loader_of, metric_of
    from leaderboards.comparison.seed_rows import groups_by_recipe, with_groups
    from support.markdown import line

    groups = groups_by_recipe(entries)
    if not groups:
        return None
    notes: list[str] = []
    found = with_groups(entries, groups, samples=loader_of(boards), metrics=metric_of, notes=notes)
    for note in dict.fromkeys(notes):
        log.info(line(f"note: {note}"))
    return found


def _compare(boards: "Sequence[Board]", entries: "Sequence[Entry]", base: str | None, **more: Any) -> "BoardComparison":
    from harness.evaluation.find_boards import loader_of, metric_of
    from harness.evaluation.guards import guards_of
    from leaderboards.comparison.compare_board import compare_board
    from support.markdown import line

    found = compare_board(entries, samples=loader_of(boards), metrics=metric_of, guards=guards_of, base=base, **more)
    for note in found.notes:
        log.info(line(f"note: {note}"))
    return found


def _correct(
    path: Path | None, boards: "Sequence[Board]", entries: "Sequence[Entry]", *, only_headline: bool
) -> "dict[Key, Corrected]":
    """The scores that people's labels correct; what they don't is told. DataError where they correct nothing."""
    if path is None:
        return {}
    from harness.evaluation.find_boards import loader_of, metric_of
    from harness.evaluation.human_labels import judged_logs, match_labels, read_labels
    from leaderboards.comparison.human_labels import corrected_entries
    from leaderboards.comparison.paired_logs import Logs

    load = loader_of(boards)
    labels = match_labels(path, read_labels(path), judged_logs(entries, load))
    asked = [entry for entry in entries if entry.headline or not only_headline]
    found, notes = corrected_entries(asked, Logs(load), labels, metric_of)
    if not found:
        raise DataError(f"{path}: no score can be corrected: {'; '.join(notes) or 'none has labels'}")
    for note in notes:
        log.info(f"note: {note}")
    return found


def _show(
    boards: "Sequence[Board]",
    entries: "Sequence[Entry]",
    reports: "Sequence[Reference]",
    corrected: "dict[Key, Corrected]",
    shown: LeaderboardOptions,
) -> None:
    """Print the board."""
    from leaderboards.views.columns import BoardComparison
    from leaderboards.views.markdown_report import leaderboard_blocks, to_csv, to_json
    from leaderboards.views.published import beside, rows

    more: dict[str, Any] = {"only_headline": shown.headline, "comparison": BoardComparison(corrected=corrected)}
    if shown.base is not None or shown.ranks:
        found = _compare(boards, entries, shown.base, only_headline=shown.headline)
        more["comparison"] = replace(found, corrected=corrected, ranks=found.ranks if shown.ranks else {})
    reported = rows(entries, reports, only_headline=shown.headline)
    if shown.as_json:
        print(to_json(entries, **more, published=reported if shown.published else None))
        return
    blocks = leaderboard_blocks(entries, base=shown.base, ranked=True, **more)
    below = beside(entries, reports, only_headline=shown.headline)
    show([*blocks, *filter(None, [below])], csv=lambda: to_csv(entries, **more, published=reported))


def live_page_of(places: Sequence[Path], shown: LeaderboardOptions, state: str) -> str:
    """The page of what stands on the boards now, which looks for another state than this one; empty before there is a
    result."""
    from harness.evaluation.find_boards import boards_in, entries_of_boards

    boards = list({board.folder: board for place in places for board in boards_in(place)}.values())
    entries = entries_of_boards(boards, shown.partial, shown.replaced)
    if not entries:
        return _make_page(places, boards, entries, replace(shown, base=None, human_labels=None), live=state)
    if shown.group_seeds and (grouped := _group_seeds(boards, entries)) is not None:
        entries = grouped
    elif shown.group_seeds:
        log.info(f"--group-seeds: {ONE_SEED} yet")
    return _make_page(places, boards, entries, shown, live=state)


def _make_page(
    places: Sequence[Path],
    boards: "Sequence[Board]",
    entries: "Sequence[Entry]",
    shown: LeaderboardOptions,
    *,
    live: str = "",
) -> str:
    from harness.evaluation.board_page import board_page
    from harness.evaluation.find_boards import loader_of, references
    from leaderboards.board.entry import SEEDS
    from leaderboards.views.html_page import PageExtras

    entries = [entry for entry in entries if entry.headline or not shown.headline]
    corrected = _correct(shown.human_labels, boards, entries, only_headline=shown.headline)
    of_seeds, load = {entry.run for entry in entries if SEEDS in entry.provenance}, loader_of(boards)
    return board_page(
        boards,
        entries,
        title=f"Leaderboard: {', '.join(dict.fromkeys(map(str, places)))}",
        base=shown.base,
        samples=lambda run: [] if run in of_seeds else load(run),  # the answers of a row's seeds are not its own
        comparison=replace(_compare(boards, entries, shown.base, only_headline=shown.headline), corrected=corrected),
        pictures=shown.pictures,
        extras=PageExtras(references=references() if shown.published else (), live=live),
    )


def _explain_empty(boards: "Sequence[Board]", folders: Sequence[Path]) -> str:
    """Why a leaderboard would be empty."""
    runs = {entry.run for board in boards for entry in board.entries() if entry.partial}
    where = ", ".join(repr(str(folder)) for folder in folders)
    if not runs:
        return f"no run on the boards in {where}"
    many = f"{len(runs)} run" + "s" * (len(runs) > 1)
    return f"no complete run on the boards in {where}: {many} with --limit or on partial data; --partial shows them"


def _export(entries: "Sequence[Entry]", shown: LeaderboardOptions) -> int:
    """Write each model's entries for others, once all are made; FAILED where a model has no file."""
    from leaderboards.board.export_results import hub_files, lm_eval_files, write_files
    from support.markdown import line

    names = parse_pairs(shown.hub_task, "--hub-task", "TASK=ID or TASK=OWNER/NAME/ID")
    to_hub = shown.output == "hub"
    made = hub_files(entries, source_url=shown.source_url, task_ids=names) if to_hub else lm_eval_files(entries)
    for path in write_files(shown.out or EXPORTED, made.files):
        print(path)
    for model, scores in made.left_out.items():
        for score in scores:
            log.info(line(f"{model}: left out: {score}"))
    for model, why in made.refused.items():
        log.info(line(f"{model}: not exported: {why}"))
    return FAILED if made.refused else OK
