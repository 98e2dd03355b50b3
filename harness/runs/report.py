"""The report of a train-then-eval run: what the screen shows at its end and `report.md` keeps."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.evaluation.lost import list_lost
from harness.runs.checkpoint_selection import Selection
from harness.runs.image_use_checks import ImageUseChecks
from harness.runs.image_use_checks import render as render_checks
from harness.runs.model_card import describe_leaks, write_cards
from harness.runs.outcome import Outcome
from harness.runs.training_alarms import LEGEND, length_metrics, training_table
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.views.glossary import DIFFERENCE, OF_TABLE, in_json, p_of, stopped_of
from leaderboards.views.learning_curves import Point, learning_curves
from leaderboards.views.markdown_report import differences, leaderboard
from support.files import atomic_write_text
from support.markdown import cell, line, number, table
from tasks.outside import options
from tasks.registry import registry
from trainers.config.recipe import known_recipes

EXAMPLES = 3
EXAMPLES_ARE = "The first images on which the base hallucinated and whose answer has changed."


def write_report(outcome: Outcome) -> str:
    """The report as markdown, written to the run folder with its plot; a model card is written into every
    checkpoint."""
    text = render(outcome)
    atomic_write_text(outcome.out / "report.md", text)
    write_cards(outcome)
    return text


def render(outcome: Outcome) -> str:
    """All sections of the report; the plot is written beside it."""
    shown = [entry for entry in _in_order(outcome) if _is_shown(outcome, entry)]
    parts = [
        f"# {cell(outcome.recipe.name)}: {cell(outcome.base)} before and after preference training",
        _summarise(outcome),
        "## Leaderboard",
        "↑ higher is better, ↓ lower is better.",
        leaderboard(shown),
    ]
    tasks = registry().tasks.items()
    units = {f"{name}.{metric}": spec.unit for name, task in tasks for metric, spec in task.metrics.items()}
    for label, verdicts in outcome.verdicts.items():
        parts.append(f"## {cell(label)}")
        if not verdicts:
            parts.append("Not scored.")
            continue
        if outcome.stop is not None:
            parts.append(stopped_of(outcome.stop.looks))
        parts.append(differences(verdicts, units))
        parts.append(f"{DIFFERENCE} {p_of(OF_TABLE)}")
    parts += _plot_curves(outcome)
    main = [checkpoint.path.as_posix() for checkpoint in outcome.of_arm(outcome.recipe.trainer)]
    parts += ["## Best checkpoint", describe_selection(outcome.selection, main, outcome.removed)]
    parts += ["## Training", _list_alarms(outcome), _training_table(outcome)]
    seen = (
        render_checks(outcome.checks)
        if isinstance(outcome.checks, ImageUseChecks)
        else f"Not known: {cell(outcome.checks)}."
    )
    parts += ["## Does it see?", seen]
    parts += [
        "## Before and after",
        EXAMPLES_ARE,
        *_list_examples(outcome),
        "## Preference data",
        describe_data(outcome),
        "## Time",
        _seconds_table(outcome),
        "## Next",
    ]
    parts.append(_next_commands(outcome))
    return "\n\n".join(parts) + "\n"


def _in_order(outcome: Outcome) -> list[Entry]:
    """Base first, then the control, then the main arm's checkpoints."""
    checkpoints = sorted(outcome.checkpoints, key=lambda checkpoint: checkpoint.arm == outcome.recipe.trainer)
    names = [outcome.base, *(checkpoint.path.as_posix() for checkpoint in checkpoints)]
    shown = (entry for entry in outcome.entries if entry.model in names)
    return sorted(shown, key=lambda entry: names.index(entry.model))


def _is_shown(outcome: Outcome, entry: Entry) -> bool:
    return not outcome.recipe.columns or f"{entry.task}.{entry.metric}" in outcome.recipe.columns or entry.headline


def _summarise(outcome: Outcome) -> str:
    tests = outcome.verdicts[f"{outcome.recipe.trainer} against base"]
    separable = [name for name, test in tests.items() if test.outcome != "not separable"]
    blank = [cell(name) for name, test in tests.items() if test.base is None or test.other is None]
    same = [cell(name) for name in tests if name not in separable and cell(name) not in blank]
    found = ", ".join(f"**{cell(name)}: {tests[name].words}**" for name in separable)
    found = found or ("nothing separable" if tests else "not scored")
    text = f"`{outcome.last}` against `{outcome.base}`: {found}."
    if same:
        text += f" Not separable: {', '.join(same)}."
    if blank:
        text += f" Without a value: {', '.join(blank)}."
    if any(entry.limit is not None for entry in outcome.entries):
        text += " **Partial: a run with `--limit` shows that things work, not how good they are.**"
    for name, why in outcome.failed.items():
        text += f"\n\n**Not scored: `{line(name)}`** ({cell(why)}); the same command tries it again."
    note = outcome.recipe.note
    return f"{text}\n\n{note}" if note else text


def _plot_curves(outcome: Outcome) -> list[str]:
    """The recipe's curves, or else those of the headline metrics."""
    there = {f"{entry.task}.{entry.metric}": entry.headline for entry in outcome.entries}
    named = [name for name in outcome.recipe.curves if name in there]
    wanted = named or [name for name, headline in there.items() if headline]
    arms = list(dict.fromkeys(checkpoint.arm for checkpoint in outcome.checkpoints))
    steps = {arm: [(checkpoint.step, checkpoint.path.as_posix()) for checkpoint in outcome.of_arm(arm)] for arm in arms}
    file = "hallucination.png" if named else "scores.png"
    if not plot_scores(outcome.entries, outcome.base, steps, wanted, outcome.out / file):
        return []
    return [
        "## Hallucination against training step" if named else "## Scores against training step",
        "From the base at step 0; bars are the 95% intervals of the table above.",
        f"![{cell(', '.join(wanted))} against training step]({file})",
    ]


def plot_scores(
    entries: Sequence[Entry],
    base: str | None,
    steps: Mapping[str, Sequence[tuple[int, str]]],
    wanted: Sequence[str],
    path: Path,
) -> bool:
    """Plot metrics ("task.metric") of each arm's models by step, from the base at step 0; whether there was anything to
    plot."""
    lines: dict[str, dict[str, list[Point]]] = {}
    for name in wanted:
        by_model = {entry.model: entry for entry in entries if f"{entry.task}.{entry.metric}" == name}
        models = {arm: [*([(0, base)] if base is not None else []), *own] for arm, own in steps.items()}
        points = {
            arm: [Point(step=step, entry=by_model[model]) for step, model in own if model in by_model]
            for arm, own in models.items()
        }
        if any(points.values()):
            unit = next(iter(by_model.values())).unit
            lines[f"{name} ({unit})"] = points
    if lines:
        learning_curves(lines, path)
    return bool(lines)


def describe_selection(found: Selection, models: Sequence[str], removed: Sequence[str] = ()) -> str:
    """Which checkpoint to take, and what the others lack."""
    kept = [model for model in models if model not in removed]
    unranked = bool(kept) and all(model in found.lacking for model in kept)
    if len(models) == 1 and not unranked and not found.fallen:
        return f"There is one alone, `{line(models[0])}`."
    if found.model is not None:
        taken = f"`{line(found.model)}`"
    elif not kept:
        taken = "None: none is kept"
    else:
        taken = "None: each is significantly worse than another by some metric, says less, or has no value of one"
    text = (
        f"{taken}. The earliest that is by no headline metric significantly worse than the highest score of the run's"
    )
    text += f" checkpoints: paired tests on the same images, Holm-adjusted over {found.comparisons} comparisons. It is"
    text += " chosen on the images it is scored on, so verdicts are on the last checkpoint, which nobody chose."
    if unranked:
        text = "**No checkpoint is ranked**: none has a value of every headline metric, and without one it can't be"
        text += " compared with another."
    text += " Checkpoints that say less than they did are not ranked." if found.fallen else ""
    text += " Checkpoints that the trainer has removed are not ranked." if removed else ""
    rows = []
    for model in models:
        highest = [cell(name) for name, top in found.highest.items() if top == model]
        if model in removed:
            worse = "removed, not ranked"
        elif model in found.lacking:
            worse = f"no value of {', '.join(cell(name) for name in found.lacking[model])}, not ranked"
        elif model in found.fallen:
            worse = f"{', '.join(map(cell, found.fallen[model]))}: not ranked"
        else:
            worse = ", ".join(cell(name) for name in found.worse.get(model, ()))
        rows.append([cell(model), ", ".join(highest), worse])
    shown = table(["checkpoint", "highest by", "worse by"], rows)
    return "\n\n".join(filter(None, (text, shown, _describe_best(found))))


def _describe_best(found: Selection) -> str:
    """What the highest scores are worth; "" where nothing was chosen among several."""
    if not found.best:
        return ""
    rows = []
    for name, (model, best) in found.best.items():
        task, _, metric = name.partition(".")
        unit = registry().task(task).all_metrics[metric].unit
        values = (number(best.raw, unit), number(best.value, unit), number(best.luck, unit, signed=True))
        rows.append([cell(name), cell(model), *values])
    why = (
        "The highest score of several is high partly by luck (the winner's curse). Report the one on held-out images: "
        "the checkpoint is chosen anew on nine tenths of the images and scored on the tenth that did not choose it, "
        "for every tenth, ten times over."
    )
    head = ["metric", "highest", "its score", "on held-out images", "luck of the choice"]
    return f"{why}\n\n{table(head, rows)}"


def _list_alarms(outcome: Outcome) -> str:
    found = [f"- **{alarm.name}**: {cell(alarm.words)}" for alarm in outcome.alarms]
    if outcome.stop is not None:
        control = "; the control was not trained, since its length would differ" if outcome.recipe.control else ""
        found.insert(0, f"- **stopped early**: {cell(outcome.stop.words)}{control}")
    return "\n".join(found) or "No alarm."


def _training_table(outcome: Outcome) -> str:
    """The log beside how long answers are."""
    metrics = length_metrics([registry().task(name) for name in dict.fromkeys(entry.task for entry in outcome.entries)])
    steps = {checkpoint.path.as_posix(): checkpoint.step for checkpoint in outcome.of_arm(outcome.recipe.trainer)}
    answers: dict[int, dict[str, float]] = {step: {} for step in steps.values()}
    for entry in outcome.entries:
        if (entry.task, entry.metric) in metrics and entry.model in steps and entry.value is not None:
            answers[steps[entry.model]][entry.task] = entry.value
    shown = training_table(outcome.log, outcome.recipe.training.beta, answers)
    return f"{LEGEND}\n\n{shown}" if shown else "Nothing was logged."


def _list_examples(outcome: Outcome) -> list[str]:
    """Answers before and after: the first images on which the base hallucinated and the answer changed, or any that
    changed."""
    board = Board(outcome.board)
    last = outcome.last
    task = outcome.recipe.examples
    runs = {entry.model: entry.run for entry in outcome.entries if entry.task == task}
    if not runs:
        return ["No task is named for examples."]
    if outcome.base not in runs or last not in runs:
        return ["Not scored."]
    before, after = (
        {sample.id: sample for sample in board.samples(runs[model]) if sample.task == task}
        for model in (outcome.base, last)
    )
    changed = [id for id in before if before[id].answer != after[id].answer]
    wrong = [id for id in changed if _hallucinated(before[id].records)]
    parts = []
    for id in (wrong or changed)[:EXAMPLES]:
        image = _write_image(outcome.out, before[id].image)
        parts.append(
            f"- `{image}`\n  - before: {cell(before[id].answer or '')}\n  - after: {cell(after[id].answer or '')}"
        )
    return parts or ["No answer changed."]


def _hallucinated(records: object) -> bool:
    return isinstance(records, dict) and any(record.get("hallucinated", 0) for record in records.values())


def _write_image(out: Path, id: str) -> str:
    """The scene's picture, written for whoever wants to look."""
    from tasks.scenes.world import make_scene
    from trainers.vlfeedback.instructions import write_image

    return (out / "examples" / write_image(make_scene(id), out / "examples")).as_posix()


def describe_data(outcome: Outcome) -> str:
    """What was trained on, and whether tasks' pictures are in it."""
    built = outcome.data.built
    leaks = f"Held against the tasks: {describe_leaks(outcome)}."
    if built is None:
        return f"{cell(outcome.data.summary)}. {leaks}"
    counts = built.counts
    yes = sum(pair.chosen == "yes" for pair in built.pairs)
    no = sum(pair.chosen == "no" for pair in built.pairs)
    text = f"{counts.rows} rated instructions gave {len(built.pairs)} pairs ({yes} choose yes, {no} choose no);"
    text += f" {counts.ties} ties, "
    text += f"{counts.refused} pairs refused by rule {outcome.recipe.data.rule!r}, " if outcome.recipe.data else ""
    text += f"{counts.unrated} answers without a rating, {counts.balanced_away} dropped to balance yes and no; "
    return text + f"{built.failed} answers and ratings failed. {leaks}"


def _seconds_table(outcome: Outcome) -> str:
    rows = [[cell(stage), f"{seconds:.1f}"] for stage, seconds in outcome.seconds.items()]
    return table(["stage", "seconds"], [*rows, ["all", f"{sum(outcome.seconds.values()):.1f}"]])


def _next_commands(outcome: Outcome) -> str:
    last = outcome.last
    board = shlex.quote(outcome.board.as_posix())
    limit = next((entry.limit for entry in outcome.entries if entry.limit is not None), None)
    limited = f" --limit {limit}" if limit is not None else ""
    recipe = outcome.recipe.name if outcome.recipe.name in known_recipes() else "RECIPE.toml"
    tasks = ",".join(outcome.recipe.tasks)
    commands = [
        (f"harness eval --model {shlex.quote(last)} --tasks {tasks}{limited}", "score a checkpoint again, by itself"),
        (f"harness leaderboard {board}{' --partial' if limited else ''}", "every metric of every checkpoint"),
        (f"harness train-then-eval {recipe} --seed {outcome.recipe.seed + 1}{limited}", "the same with another seed"),
    ]
    if not limited:  # the gate compares whole runs
        baseline = f"--baseline {board} --baseline-model {shlex.quote(outcome.base)}"
        gate = f"harness check {baseline} --board {board} --model {shlex.quote(last)}"
        commands.insert(2, (gate, "the CI gate"))
    if own := shlex.join(options()):
        commands = [(f"{command} {own}", why) for command, why in commands]
    width = max(len(command) for command, _ in commands)
    return "```\n" + "\n".join(f"{command:{width}}  # {why}" for command, why in commands) + "\n```"


def to_json(outcome: Outcome) -> str:
    """Entries and verdicts for machines."""
    return json.dumps(values_of(outcome))


def values_of(outcome: Outcome) -> dict[str, Any]:
    """The same as JSON values."""
    from harness.runs.outcome import verdict_json
    from leaderboards.board.entry import to_json as entry_json

    verdicts = {
        label: {name: verdict_json(verdict) for name, verdict in found.items()}
        for label, found in outcome.verdicts.items()
    }
    return {
        "run": outcome.out.as_posix(),
        "entries": [entry_json(entry) for entry in outcome.entries],
        "glossary": _glossary(outcome),
        "verdicts": verdicts,
        **selection_values(outcome.selection),
        "alarms": [asdict(alarm) for alarm in outcome.alarms],
        "checks": outcome.checks.to_json() if isinstance(outcome.checks, ImageUseChecks) else None,
        "stopped": None if outcome.stop is None else asdict(outcome.stop),
        "leaks": dict(outcome.data.leaks),
        "failed": dict(outcome.failed),
        "reasons": list_lost(Board(outcome.board), outcome.entries),
        "data reasons": [asdict(reason) for reason in outcome.data.reasons],
    }


def _glossary(outcome: Outcome) -> dict[str, str]:
    told = in_json(OF_TABLE)
    return told if outcome.stop is None else told | {"p": f"{told['p']} {stopped_of(outcome.stop.looks)}"}


def selection_values(found: Selection) -> dict[str, Any]:
    """Which checkpoint to take, what the highest scores are worth on held-out images, and which are not ranked, as JSON
    values."""
    best = {
        name: {"model": model, "value": one.raw, "held out": one.value} for name, (model, one) in found.best.items()
    }
    why = {model: list(words) for model, words in {**found.lacking, **found.fallen}.items()}
    return {"best": found.model, "best scores": best, "not ranked": why}
