"""The report of one train-then-eval run: what the screen shows at its end and `report.md` keeps."""

import json
from collections.abc import Sequence
from pathlib import Path

from harness.train_then_eval import Outcome
from leaderboards.board import Board
from leaderboards.entry import Entry
from leaderboards.plot import Point, learning_curves
from leaderboards.report import cell, differences, leaderboard, table
from tasks.registry import registry

EXAMPLES = 3
EXAMPLES_ARE = "The first images on which the base hallucinated and whose answer has changed."


def write_report(outcome: Outcome) -> str:
    """The report as markdown, written to the run folder with its plot."""
    text = render(outcome)
    temporary = outcome.out / ".report.md"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(outcome.out / "report.md")
    return text


def render(outcome: Outcome) -> str:
    """All sections of the report; the plot is written beside it."""
    shown = [entry for entry in _in_order(outcome) if _is_shown(outcome, entry)]
    parts = [
        f"# {cell(outcome.recipe.name)}: {cell(outcome.base)} before and after preference training",
        _summary(outcome),
        "## Leaderboard",
        "Values with their 95% intervals (bootstrap over images). ↑ higher is better, ↓ lower is better.",
        leaderboard(shown),
    ]
    units = {f"{task}.{metric}": spec.unit for task in registry().tasks for metric, spec in registry().tasks[task].metrics.items()}
    for label, verdicts in outcome.verdicts.items():
        parts += [f"## {cell(label)}", "Paired on the same images; p from a permutation test over images, Holm-adjusted over the table."]
        parts.append(differences(verdicts, units))
    if _plot(outcome):
        parts += ["## Hallucination against training step", "![CHAIR and coverage against training step](hallucination.png)"]
    parts += [
        "## Before and after",
        EXAMPLES_ARE,
        *_examples(outcome),
        "## Preference data",
        _data(outcome),
        "## Time",
        _seconds(outcome),
        "## Next",
    ]
    parts.append(_next_commands(outcome))
    return "\n\n".join(parts) + "\n"


def _in_order(outcome: Outcome) -> list[Entry]:
    """Base first, then the control, then the main arm's checkpoints."""
    control = [c.path.as_posix() for c in outcome.checkpoints if c.arm != outcome.recipe.trainer]
    names = [outcome.base, *control, *(c.path.as_posix() for c in outcome.checkpoints if c.arm == outcome.recipe.trainer)]
    return sorted((entry for entry in outcome.entries if entry.model in names), key=lambda entry: names.index(entry.model))


def _is_shown(outcome: Outcome, entry: Entry) -> bool:
    return not outcome.recipe.columns or f"{entry.task}.{entry.metric}" in outcome.recipe.columns or entry.headline


def _summary(outcome: Outcome) -> str:
    main = f"{outcome.recipe.trainer} against base"
    found = [
        f"**{cell(name)}: {verdict.outcome}**" for name, verdict in outcome.verdicts[main].items() if verdict.outcome != "not separable"
    ]
    same = [cell(name) for name, verdict in outcome.verdicts[main].items() if verdict.outcome == "not separable"]
    last = [c.path.as_posix() for c in outcome.checkpoints if c.arm == outcome.recipe.trainer][-1]
    text = f"`{last}` against `{outcome.base}`: " + (", ".join(found) if found else "nothing separable") + "."
    if same:
        text += f" Not separable: {', '.join(same)}."
    if any(entry.limit is not None for entry in outcome.entries):
        text += " **Partial: a run with `--limit` shows that things work, not how good they are.**"
    note = outcome.recipe.note
    return f"{text}\n\n{note}" if note else text


def _plot(outcome: Outcome) -> bool:
    wanted = [name for name in outcome.recipe.curves if any(f"{e.task}.{e.metric}" == name for e in outcome.entries)]
    if not wanted:
        return False
    arms = list(dict.fromkeys(checkpoint.arm for checkpoint in outcome.checkpoints))
    lines: dict[str, dict[str, list[Point]]] = {}
    for name in wanted:
        by_model = {entry.model: entry for entry in outcome.entries if f"{entry.task}.{entry.metric}" == name}
        unit = next(iter(by_model.values())).unit
        lines[f"{name} ({unit})"] = {
            arm: [
                Point(step=0, entry=by_model[outcome.base]),
                *(Point(step=c.step, entry=by_model[c.path.as_posix()]) for c in outcome.checkpoints if c.arm == arm),
            ]
            for arm in arms
        }
    learning_curves(lines, outcome.out / "hallucination.png")
    return True


def _examples(outcome: Outcome) -> list[str]:
    """Answers before and after: the first images on which the base hallucinated and the answer changed, or any that changed."""
    board = Board(outcome.out / "board")
    last = [c.path.as_posix() for c in outcome.checkpoints if c.arm == outcome.recipe.trainer][-1]
    task = outcome.recipe.examples
    runs = {entry.model: entry.run for entry in outcome.entries if entry.task == task}
    if not runs:
        return ["No task is named for examples."]
    before, after = ({sample.id: sample for sample in board.samples(runs[model]) if sample.task == task} for model in (outcome.base, last))
    changed = [id for id in before if before[id].answer != after[id].answer]
    wrong = [id for id in changed if _hallucinated(before[id].records)]
    parts = []
    for id in (wrong or changed)[:EXAMPLES]:
        image = _image(outcome.out, before[id].image)
        parts.append(f"- `{image}`\n  - before: {cell(before[id].answer or '')}\n  - after: {cell(after[id].answer or '')}")
    return parts or ["No answer changed."]


def _hallucinated(records: object) -> bool:
    return isinstance(records, dict) and any(record.get("hallucinated", 0) for record in records.values())


def _image(out: Path, id: str) -> str:
    """The scene's picture, written for whoever wants to look."""
    from tasks.scenes.world import make_scene
    from trainers.vlfeedback.instructions import write_image

    return (out / "examples" / write_image(make_scene(id), out / "examples")).as_posix()


def _data(outcome: Outcome) -> str:
    counts = outcome.dataset.counts
    yes = sum(pair.chosen == "yes" for pair in outcome.dataset.pairs)
    no = sum(pair.chosen == "no" for pair in outcome.dataset.pairs)
    text = f"{counts.rows} rated instructions gave {counts.pairs} pairs ({yes} choose yes, {no} choose no); {counts.ties} ties, "
    text += f"{counts.refused} pairs refused by rule {outcome.recipe.data.rule!r}, " if outcome.recipe.data else ""
    text += f"{counts.unrated} answers without a rating, {counts.balanced_away} dropped to balance yes and no; "
    return text + f"{outcome.dataset.failed} answers and ratings failed."


def _seconds(outcome: Outcome) -> str:
    rows = [[cell(stage), f"{seconds:.1f}"] for stage, seconds in outcome.seconds.items()]
    return table(["stage", "seconds"], [*rows, ["all", f"{sum(outcome.seconds.values()):.1f}"]])


def _next_commands(outcome: Outcome) -> str:
    last = [c.path.as_posix() for c in outcome.checkpoints if c.arm == outcome.recipe.trainer][-1]
    board = (outcome.out / "board").as_posix()
    commands = [
        f"harness eval --model {last} --tasks {' '.join(outcome.recipe.tasks)}    # score a checkpoint again, by itself",
        f"harness leaderboard {board}                                # every metric of every checkpoint",
        f"harness check --baseline {board} --baseline-model {outcome.base} --board {board} --model {last}    # the CI gate",
        f"harness train-then-eval {outcome.recipe.name} --seed {outcome.recipe.seed + 1}        # the same with another seed",
    ]
    return "```\n" + "\n".join(commands) + "\n```"


def to_json(outcome: Outcome) -> str:
    """Entries and verdicts for machines."""
    from harness.train_then_eval import verdict_json
    from leaderboards.entry import to_json as entry_json

    verdicts = {label: {name: verdict_json(verdict) for name, verdict in found.items()} for label, found in outcome.verdicts.items()}
    entries: Sequence[Entry] = outcome.entries
    return json.dumps({"run": outcome.out.as_posix(), "entries": [entry_json(entry) for entry in entries], "verdicts": verdicts})
