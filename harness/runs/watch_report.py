"""The report of a watched folder: what the screen shows at its end and `watch.md` keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.runs.checkpoint_selection import Scores, Selection, headlines, select_checkpoint
from harness.runs.report import describe_selection, plot_scores, selection_values
from harness.runs.training_alarms import find_alarms, lengths_of, read_log
from harness.runs.watch import Watched
from leaderboards.board.board import Board
from leaderboards.statistics.looks import adjusted_for_look, describe_looks
from leaderboards.views.markdown_report import differences, leaderboard
from support.files import atomic_write_text
from support.markdown import cell, line
from tasks.registry import TaskSpec


@dataclass(frozen=True, kw_only=True)
class WatchReport:
    """What was written, and what of it machines read."""

    text: str
    selection: Selection | None
    """Of the scored checkpoints; None: there are not several."""

    def to_json(self) -> dict[str, Any]:
        """The best checkpoint, and its scores on images that did not choose it."""
        return {} if self.selection is None else selection_values(self.selection)


def write_watch_report(
    folder: Path,
    out: Path,
    watched: Watched,
    base: str | None,
    tasks: Sequence[TaskSpec],
    unscored: Mapping[str, str] | None = None,
) -> WatchReport:
    """What a watched folder has to show so far, written to `out` as watch.md with watch.png; `base` is its name on the
    board.

    `unscored`: the base, where it could not be scored, and why.
    """
    scores = Scores(Board(out / "board"))
    models = [(found.step, watched.names[found.path]) for found in watched.found]
    names = [name for _, name in models]
    shown = [entry for entry in scores.entries if entry.headline and entry.model in (base, *names)]
    shown.sort(key=lambda entry: (entry.model != base, names.index(entry.model) if entry.model in names else -1))
    scored = [name for name in names if any(entry.model == name for entry in shown)]
    parts = [f"# Checkpoints of {cell(folder.as_posix())}", leaderboard(shown)]
    if unscored:
        parts.append("\n".join(f"- **base not scored**: `{line(name)}`: {cell(why)}" for name, why in unscored.items()))
    if watched.failed:
        parts.append(
            "\n".join(f"- **not scored**: `{path.as_posix()}`: {cell(why)}" for path, why in watched.failed.items())
        )
    if watched.incomplete:
        parts.append(
            "\n".join(f"- not whole: `{path.as_posix()}`: {cell(why)}" for path, why in watched.incomplete.items())
        )
    if base is not None and scored:
        units = {f"{task.name}.{metric}": spec.unit for task in tasks for metric, spec in task.all_metrics.items()}
        look = _count_looks(scores, scored[-1])
        tests = scores.panel(base, scored[-1], headlines(tasks))
        tests = {name: replace(test, p=adjusted_for_look(test.p, look)) for name, test in tests.items()}
        parts += [
            f"## `{scored[-1]}` against `{base}`",
            f"Look {look} at this training. {describe_looks()} p is adjusted so, and by Holm's method over the table; "
            "intervals are not adjusted.",
            differences(tests, units),
        ]
    wanted = [".".join(metric) for metric in headlines(tasks)]
    if scored and plot_scores(scores.entries, base, {"checkpoints": models}, wanted, out / "watch.png"):
        parts.append("![Scores against training step](watch.png)")
    chosen = select_checkpoint(scores, scored, headlines(tasks), base) if len(scored) > 1 else None
    if chosen is not None:
        parts += ["## Best checkpoint", describe_selection(chosen, scored)]
    log = read_log(folder)
    if log:
        lengths = lengths_of(scores, base, scored[-1], tasks) if base is not None and scored else {}
        total = max((found.of or found.step for found in watched.found), default=log[-1].step)
        found = find_alarms(log, total=total, lengths=lengths)
        parts += ["## Alarms", "\n".join(f"- **{alarm.name}**: {cell(alarm.words)}" for alarm in found) or "None."]
    text = "\n\n".join(parts) + "\n"
    atomic_write_text(out / "watch.md", text)
    return WatchReport(text=text, selection=chosen)


def _count_looks(scores: Scores, model: str) -> int:
    """Which scored checkpoint of its folder it is, from 1; those count, too, that the trainer has removed since."""
    folder, _, step = model.rpartition("checkpoint-")
    places = [entry.model.rpartition("checkpoint-") for entry in scores.entries]
    steps = {one for where, _, one in places if where == folder and one.isdecimal()}
    return max(1, len([one for one in steps if step.isdecimal() and int(one) <= int(step)]))
