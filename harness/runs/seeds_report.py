"""The report of trainings with several seeds: what the screen shows at its end, and `report.md` of their folder keeps.

The verdicts are those of `harness compare --runs`, in the same words; each seed's own report is in its run folder.
"""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from harness.runs.outcome import Outcome
from harness.runs.report import describe_data, values_of
from harness.runs.train_seeds import SeedsOutcome
from leaderboards.comparison.compare import scores_blocks, to_json
from support.files import atomic_write_text
from support.markdown import MISSING, cell, line, number, span
from support.tables import Block, Table, to_markdown
from trainers.config.recipe import known_recipes


def write_seeds_report(found: SeedsOutcome) -> list[Block]:
    """The report, written to the folder of all seeds; a seed's own is written by its run."""
    blocks = render(found)
    atomic_write_text(found.out / "report.md", to_markdown(blocks) + "\n")
    return blocks


def render(found: SeedsOutcome) -> list[Block]:
    """All sections of the report."""
    first, count = found.first, len(found.runs)
    blocks: list[Block] = [
        f"# {cell(found.recipe.name)}: {cell(first.base)} before and after preference training with {count} seeds",
        _summarise(found),
    ]
    for label, one in found.comparisons.items():
        blocks.append(f"## {cell(label)}")
        blocks += [f"Not compared: {cell(one)}."] if isinstance(one, str) else scores_blocks(one)
    blocks += ["## Each seed", _seeds_table(found), *filter(None, [_describe_stops(found)])]
    blocks += [
        "## Preference data",
        f"The same for all seeds. {describe_data(first)}",
        "## Next",
        _next_commands(found),
    ]
    return blocks


def _summarise(found: SeedsOutcome) -> str:
    tests, count = found.panel, len(found.runs)
    separable = [f"**{cell(name)}: {test.words}**" for name, test in tests.items() if test.outcome != "not separable"]
    same = [cell(name) for name, test in tests.items() if test.outcome == "not separable"]
    said = ", ".join(separable) or ("nothing separable" if tests else "not compared")
    text = f"The mean of {count} seeds ({', '.join(map(str, found.runs))}) against `{line(found.first.base)}`: {said}."
    text += f" Not separable: {', '.join(same)}." if same else ""
    if found.partial:
        text += " **Partial: a run with `--limit` shows that things work, not how good they are.**"
    for one in found.runs.values():
        for name, why in one.failed.items():
            text += f"\n\n**Not scored: `{line(name)}`** ({cell(why)}); the same command tries it again."
    return f"{text}\n\n{found.recipe.note}" if found.recipe.note else text


def _seeds_table(found: SeedsOutcome) -> Table:
    """The scores of each seed's last checkpoint by the headline metrics, the base's first."""
    names = list(dict.fromkeys((one.task, one.metric) for one in found.first.entries if one.headline))
    units = {(one.task, one.metric): one.unit for one in found.first.entries}
    heads = [" ".join(filter(None, (*name, units[name]))) for name in names]
    rows = [["base", line(found.first.base), *_scores(found.first, found.first.base, names)]]
    rows += [[str(seed), line(one.last), *_scores(one, one.last, names)] for seed, one in found.runs.items()]
    return Table(["seed", "last checkpoint", *heads], rows)


def _scores(outcome: Outcome, model: str, names: Sequence[tuple[str, str]]) -> list[str]:
    there = {(one.task, one.metric): one for one in outcome.entries if one.model == model}
    return [
        number(one.value, one.unit) + span(one.low, one.high, one.unit) if (one := there.get(name)) else MISSING
        for name in names
    ]


def _describe_stops(found: SeedsOutcome) -> str:
    """The seeds whose training was stopped early, and what that does to the mean; "" where none was."""
    stops = [f"- seed {seed}: {cell(one.stop.words)}" for seed, one in found.runs.items() if one.stop is not None]
    if not stops:
        return ""
    why = (
        "Stopped early, each at a look at which a score was worse, so that the mean above is worse than without stops:"
    )
    return "\n".join([why, "", *stops])


def runs_words(found: SeedsOutcome) -> list[str]:
    """The words of `harness compare --runs` that compares the same trainings again."""
    runs = [word for one in found.runs.values() for word in ("--runs", one.out.as_posix())]
    partial = ["--partial"] if found.partial else []
    return ["compare", *runs, "--base", found.first.base, "--board", found.out.as_posix(), *partial]


def _next_commands(found: SeedsOutcome) -> str:
    out, base = found.out.as_posix(), found.first.base
    limit = next((one.limit for one in found.first.entries if one.limit is not None), None)
    recipe = found.recipe.name if found.recipe.name in known_recipes() else "RECIPE.toml"
    partial, limited = (["--partial"], ["--limit", str(limit)]) if limit is not None else ([], [])
    more = ["train-then-eval", recipe, "--seeds", str(len(found.runs) + 2), *limited, "--out", out]
    commands = [
        (runs_words(found), "the same comparison again"),
        (["leaderboard", out, "--base", base, "--group-seeds", *partial], "every metric, over seeds and images"),
        (more, "with more seeds: those that are there stay"),
    ]
    lines = [(f"harness {shlex.join(words)}", why) for words, why in commands]
    width = max(len(command) for command, _ in lines)
    return "```\n" + "\n".join(f"{command:{width}}  # {why}" for command, why in lines) + "\n```"


def seeds_json(found: SeedsOutcome) -> str:
    """Comparisons, and what each seed's run says by itself, for machines."""
    compared: dict[str, Any] = {
        label: {"why": one} if isinstance(one, str) else to_json(one) for label, one in found.comparisons.items()
    }
    runs = {str(seed): values_of(one) for seed, one in found.runs.items()}
    told = {"run": found.out.as_posix(), "seeds": list(found.runs), "comparisons": compared, "runs": runs}
    return json.dumps(told, allow_nan=False)
