"""The README.md of a checkpoint: what it was made from, how, what came of it, and how to load it.

    write_cards(outcome)          # into every checkpoint folder that is there

Everything in it is read from the run; nothing is claimed that the board, the log or the recipe does not say.
"""

import json
from pathlib import Path
from typing import Any, Final

from harness.models.spec import MODELS, ModelSpec, find
from harness.runs.checkpoint_selection import Scores, panel_of
from harness.runs.image_use_checks import ImageUseChecks
from harness.runs.image_use_checks import render as render_checks
from harness.runs.outcome import Outcome, adjusted_for_stop
from harness.runs.training_alarms import line_table
from leaderboards.board.board import Board
from leaderboards.board.entry import Entry
from leaderboards.statistics.verdict import PairedTest
from leaderboards.views.glossary import DIFFERENCE, OF_TABLE, p_of, stopped_of
from leaderboards.views.markdown_report import differences, leaderboard
from support.files import atomic_write_text
from support.markdown import cell, line, table
from tasks.registry import registry
from trainers.config.data import PreferenceFile
from trainers.config.recipe import PreferenceRecipe
from trainers.data.dataset_card import PUBLIC_LICENCE
from trainers.training.checkpoints import Checkpoint
from trainers.vlfeedback.sources import declared

UNKNOWN: Final = "not known here"


def write_cards(outcome: Outcome) -> list[Path]:
    """A card into each checkpoint folder of the run; where it was written."""
    scores = Scores(Board(outcome.board))
    written = []
    for checkpoint in outcome.checkpoints:
        if checkpoint.path.is_dir():
            atomic_write_text(checkpoint.path / "README.md", card(outcome, checkpoint, scores))
            written.append(checkpoint.path / "README.md")
    return written


def card(outcome: Outcome, checkpoint: Checkpoint, scores: Scores) -> str:
    """The card of one checkpoint, as markdown with the hub's header."""
    import yaml

    recipe, name = outcome.recipe, checkpoint.path.as_posix()
    base, tasks = find(outcome.base), registry().expand(recipe.tasks)
    adapter = (checkpoint.path / "adapter_config.json").is_file()
    known = base.pretrained if not Path(base.pretrained).is_dir() else None
    head: dict[str, Any] = {"base_model": known} if known else {}
    head |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "image-text-to-text"}
    head["tags"] = [checkpoint.arm, "vision-language", "preference", *(["lora"] if adapter else [])]
    looks = 1 if outcome.stop is None else outcome.stop.looks
    verdicts = adjusted_for_stop(scores.panel(outcome.base, name, panel_of(recipe, tasks)), looks)
    units = {f"{task.name}.{metric}": spec.unit for task in tasks for metric, spec in task.all_metrics.items()}
    shown = [entry for entry in outcome.entries if entry.model in (outcome.base, name) and entry.headline]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {cell(recipe.name)}: {cell(checkpoint.path.name)}",
        _describe(outcome, checkpoint, base),
        "## Against the base",
        _describe_verdicts(verdicts, shown, looks),
        differences(verdicts, units) if verdicts else "Not scored.",
        "## Scores",
        leaderboard(shown),
        "## Training data",
        _data_table(outcome, base),
        "## Recipe",
        recipe_table(recipe),
    ]
    if checkpoint.arm == recipe.trainer:
        parts += ["## Diagnostics", *_diagnostics(outcome, checkpoint)]
    parts += ["## Load", _load_commands(outcome, checkpoint, base, adapter=adapter)]
    if recipe.note:
        parts += ["## Note", line(recipe.note)]
    return "\n\n".join(parts) + "\n"


def _describe(outcome: Outcome, checkpoint: Checkpoint, base: ModelSpec) -> str:
    how = (
        "the SFT control on the chosen answers"
        if checkpoint.arm != outcome.recipe.trainer
        else f"training by {cell(checkpoint.arm)}"
    )
    steps = "1 step" if checkpoint.step == 1 else f"{checkpoint.step:,} steps"
    text = f"`{line(outcome.base)}` after {steps} of {how}, recipe `{line(outcome.recipe.name)}` "
    text += f"(digest `{outcome.recipe.digest}`, seed {outcome.recipe.seed})."
    text += f" Licence of the base: {cell(base.licence or UNKNOWN)}."
    if outcome.selection.model is not None and checkpoint.arm == outcome.recipe.trainer:
        taken = "it" if outcome.selection.model == checkpoint.path.as_posix() else f"`{line(outcome.selection.model)}`"
        kept = " that are kept" if outcome.removed else ""
        text += f" Of its run's checkpoints{kept} {taken} is the one to take."
    return text


def _describe_verdicts(verdicts: dict[str, PairedTest], shown: list[Entry], looks: int) -> str:
    text = f"{DIFFERENCE} {p_of(OF_TABLE)}" + (f" {stopped_of(looks)}" if looks > 1 else "")
    if any(entry.limit is not None for entry in shown):
        text += " **Partial: scored on the first documents of each task only.**"
    separable = [
        f"{cell(name)} {cell(verdict.words)}"
        for name, verdict in verdicts.items()
        if verdict.outcome != "not separable"
    ]
    return f"{text} Separable: {', '.join(separable) or 'nothing'}."


def _data_table(outcome: Outcome, base: ModelSpec) -> str:
    data, recipe = outcome.data, outcome.recipe
    held_out = f", {len(data.held_out):,} held out" if data.held_out else ""
    rows = [
        ["pairs", f"{len(data.pairs):,} from {len({pair.row for pair in data.pairs}):,} rows{held_out}"],
        ["digest", data.digest],
        ["made", cell(data.summary)],
        ["sources", sources_of(recipe)],
        ["leaks", describe_leaks(outcome)],
    ]
    if recipe.data is not None:
        pool = ", ".join(cell(f"{member.name} ({licence_of(member.model)})") for member in recipe.data.pool)
        rows += [["answers by", pool], ["rated by", cell(recipe.data.judge)], ["rule", cell(recipe.data.rule)]]
    return table(["", "training data"], rows)


def sources_of(recipe: PreferenceRecipe) -> str:
    """Where the instructions or pairs are from, each with its licence, for a cell of a table."""
    data = recipe.preferences
    if isinstance(data, PreferenceFile):
        licence = PUBLIC_LICENCE if data.read in ("public", "hub:MMInstruction/VLFeedback") else UNKNOWN
        return cell(f"{data.read} ({licence})")
    if not data.sources:
        return cell(f"{data.source} (drawn by this package, Apache-2.0)")
    known = declared()
    return ", ".join(
        cell(f"{source.name} ({known[source.name].licence if source.name in known else UNKNOWN})")
        for source in data.sources
    )


def licence_of(model: str) -> str:
    """A known model's licence."""
    return MODELS[model].licence or UNKNOWN if model in MODELS else UNKNOWN


def describe_leaks(outcome: Outcome) -> str:
    """How many rows of the training data show pictures of which task."""
    found = [f"{cell(task)} {rows}" for task, rows in outcome.data.leaks.items() if rows]
    checked = ", ".join(cell(task) for task in outcome.data.leaks)
    return f"rows that show a task's picture: {', '.join(found)}" if found else f"no row shows a picture of {checked}"


def recipe_table(recipe: PreferenceRecipe) -> str:
    """The numbers of [training], those that are defaults too."""
    given = recipe.training.model_dump(mode="json")
    adapters = given.pop("lora") or {}
    noise = given.pop("noise", {})
    rows = [[cell(name), cell(json.dumps(value))] for name, value in given.items() if value is not None]
    rows += [[f"lora.{cell(name)}", cell(json.dumps(value))] for name, value in adapters.items()]
    if recipe.training.loss.startswith("povid"):
        rows += [[f"noise.{cell(name)}", cell(json.dumps(value))] for name, value in noise.items()]
    return table(["setting", "value"], rows)


def _diagnostics(outcome: Outcome, checkpoint: Checkpoint) -> list[str]:
    parts = []
    if checkpoint.path.as_posix() == outcome.last:
        parts.append("\n".join(f"- **{alarm.name}**: {cell(alarm.words)}" for alarm in outcome.alarms) or "No alarm.")
        if isinstance(outcome.checks, ImageUseChecks):
            parts.append(render_checks(outcome.checks))
    else:
        parts.append(f"Asked of the last checkpoint, `{line(outcome.last)}`.")
    return [*parts, line_table(outcome.log, checkpoint.step, outcome.recipe.training.beta) or "Nothing was logged."]


def _load_commands(outcome: Outcome, checkpoint: Checkpoint, base: ModelSpec, *, adapter: bool) -> str:
    score = f"harness eval --model {checkpoint.path.as_posix()} --tasks {','.join(outcome.recipe.tasks)}"
    if not adapter:
        code = f"model = AutoModelForImageTextToText.from_pretrained({checkpoint.path.as_posix()!r})"
        return f"```python\nfrom transformers import AutoModelForImageTextToText\n\n{code}\n```\n\n```\n{score}\n```"
    where = base.pretrained if not Path(base.pretrained).is_dir() else f"<folder of {line(outcome.base)}>"
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'base = AutoModelForImageTextToText.from_pretrained("{where}")',
        f'model = PeftModel.from_pretrained(base, "{checkpoint.path.as_posix()}")',
        f'processor = AutoProcessor.from_pretrained("{checkpoint.path.as_posix()}")',
    ]
    return "```python\n" + "\n".join(lines) + f"\n```\n\n```\n{score}\n```"
