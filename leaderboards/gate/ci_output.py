"""The gate's result where a CI shows it: JUnit XML, GitHub's annotations and job summary, a comment with the flipped
samples.

    for text in publish(result, os.environ, junit=Path("gate.xml"), comment=Path("gate.md")):
        print(text)                                    # ::error title=...::..., only where GitHub runs it

Models name themselves and judges say what they like, and here their words meet programs that obey: a line that begins
with "::" is an order to GitHub's runner, "@name" in a comment calls somebody, "/merge" on a line of its own may be an
order to a bot. So annotations are escaped by the runner's rules, XML by XML's and without the characters it cannot
hold, and samples stand in code fences they cannot close.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from leaderboards.comparison.flips import Answered, Flip, examples
from leaderboards.gate.result import Checked, GateResult, render
from support.files import atomic_write
from support.markdown import cell, line

COMMENT_CHARACTERS: Final = 65_536
"""GitHub refuses longer ones."""

SUMMARY_BYTES: Final = 1 << 20
"""Of one step; GitHub refuses the whole summary above."""

ANNOTATIONS: Final = 10
"""Errors of one step that GitHub shows; more are dropped without a word."""

MARKER: Final = "<!-- harness check -->"
"""The comment's first line, by which the next one finds it."""

FLIPS: Final = 10
"""Of each metric that became worse, as listed in a comment."""

_SHOWN = 400  # characters of a prompt, an answer or a reply
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CALLS = re.compile(r"[@#](?=\w)|:(?=//)|(?<=www)\.|\bGH-(?=\d)", re.IGNORECASE)


def publish(
    result: GateResult, environ: Mapping[str, str], *, junit: Path | None = None, comment: Path | None = None
) -> list[str]:
    """Write the files asked for and, in a GitHub job, its summary; the annotations to print there, one a line, none
    elsewhere."""
    if junit is not None:
        _write(junit, to_junit(result))
    if comment is not None:
        _write(comment, to_comment(result))
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        add_summary(Path(summary), result)
    return annotations(result)


def to_junit(result: GateResult) -> str:
    """A test case a metric, a claim, and a thing that could not be compared; worse = failure, not compared = error."""
    cases = [("metrics", one.name, None if not one.reason else ("failure", str(one))) for one in result.checked]
    cases += [("claims", claim.name, None if claim.met else ("failure", str(claim))) for claim in result.claims]
    cases += [("not compared", one.name or one.why, ("error", one.why)) for one in result.unchecked]
    kinds = [outcome[0] for _, _, outcome in cases if outcome]
    counts = {"tests": str(len(cases)), "failures": str(kinds.count("failure")), "errors": str(kinds.count("error"))}
    top = ElementTree.Element("testsuites", {"name": "harness check", **counts})
    suite = ElementTree.SubElement(top, "testsuite", {"name": "harness check", **counts, "skipped": "0"})
    for group, name, outcome in cases:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"harness check.{group}", "name": _xml(name), "time": "0"}
        )
        if outcome:
            kind, text = outcome
            ElementTree.SubElement(case, kind, {"message": _xml(text), "type": group}).text = _xml(text)
    ElementTree.indent(top, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(top, encoding="unicode")}\n'


def annotations(result: GateResult) -> list[str]:
    """GitHub workflow commands, an error each; the last one counts those there is no room for. One notice, if the gate
    passed."""
    if result.passed:
        return [_command("notice", "Gate passed", result.summary)]
    found = [("Worse than the baseline", str(one)) for one in result.regressions]
    found += [("Not shown to be better", str(claim)) for claim in result.unmet]
    found += [("Not compared", error) for error in result.errors]
    if len(found) > ANNOTATIONS:
        rest = len(found) - (ANNOTATIONS - 1)
        found = [*found[: ANNOTATIONS - 1], ("Gate failed", f"{rest} more: see the job summary or the report")]
    return [_command("error", title, text) for title, text in found]


def add_summary(path: Path, result: GateResult) -> None:
    """Append the comment's text to the step's summary, as much of it as there is room for."""
    there = path.stat().st_size if path.exists() else 0
    room = SUMMARY_BYTES - there
    text = to_comment(result) + "\n"
    if len(text.encode()) > room:  # what other commands of the step left may be anything
        text = f"{render(result)}\n"
    if len(text.encode()) > room:
        text = f"**Gate {'passed' if result.passed else 'failed'}**: {result.summary}.\n"
    if len(text.encode()) <= room:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def to_comment(result: GateResult, *, characters: int = COMMENT_CHARACTERS) -> str:
    """Markdown for a pull request: what the gate found, and what flipped where a metric became worse; at most
    `characters` long."""
    head = f"{MARKER}\n\n{_quiet(render(result))}\n"
    parts = [_flipped(one) for one in result.regressions if one.flips]
    if len(head) > characters:
        rest = f"\n\n… {len(result.regressions)} worse, {len(result.errors)} errors: too many to list here.\n"
        return _whole_lines(head, characters - len(rest)) + rest
    text, left_out = head, 0
    for part in parts:
        if len(text) + len(part) + 100 > characters:
            left_out += 1
        else:
            text += f"\n{part}\n"
    return text + (f"\nFlips of {left_out} more metrics: no room for them here.\n" if left_out else "")


def _flipped(one: Checked) -> str:
    """The flips of one metric, folded."""
    counts = {kind: sum(flip.kind == kind for flip in one.flips) for kind in ("broken", "fixed", "still wrong")}
    chosen = [*examples(one.flips, "broken", FLIPS), *examples(one.flips, "fixed", FLIPS // 3)]
    title = f"{one.name}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
    ids = _fence(" ".join(line(flip.id) for flip in one.flips if flip.kind == "broken"), 4 * _SHOWN)
    parts = [
        f"<details><summary>{_quiet(_html(title))}</summary>",
        "Broken:",
        ids,
        *(_example(flip) for flip in chosen),
        "</details>",
    ]
    return "\n\n".join(parts)


def _example(flip: Flip) -> str:
    about = f", {flip.category}" if flip.category else ""
    texts = [f"asked:  {_short(flip.prompt)}", *_side("before", flip.before), *_side("now", flip.after)]
    return f"**{flip.kind}** {_quiet(cell(f'{flip.id}{about}, image {flip.image}'))}\n\n{_fence(chr(10).join(texts))}"


def _side(name: str, side: Answered) -> list[str]:
    text = "(generation failed)" if side.text is None else _short(side.text)
    texts = [f"{f'{name}:':<8}{text} [{line(side.mark)}]"]
    return texts + ([f"  judge: {_short(side.reply)}"] if side.reply else [])


def _short(text: str) -> str:
    text = line(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _fence(text: str, characters: int | None = None) -> str:
    """Code, in a fence longer than any run of backticks in it."""
    if characters is not None and len(text) > characters:
        text = text[:characters] + " …"
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}text\n{text}\n{ticks}"


def _quiet(markdown: str) -> str:
    """Without anything that calls a person, names an issue or becomes a link: an invisible space stands between."""
    return _CALLS.sub(lambda found: f"{found[0]}\u200b", markdown)


def _html(text: str) -> str:
    return line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _whole_lines(text: str, characters: int) -> str:
    return text[:characters].rpartition("\n")[0]


def _xml(text: str) -> str:
    return _NO_XML.sub("", line(text))


def _command(kind: str, title: str, text: str) -> str:
    return f"::{kind} title={_data(title).replace(':', '%3A').replace(',', '%2C')}::{_data(line(text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())
