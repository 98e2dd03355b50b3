"""One HTML file that shows a board: no server, nothing fetched, nothing in it that was not escaped.

    html = page(board.current(), title="VLFeedback", base="llava-7b", samples=board.samples, comparison=found)
    write_page(Path("board.html"), html)

The numbers are in the page as tables and drawings, complete without a script. The answers are in it too
(`leaderboards.views.page_answers`), compressed, one block for each task and run, which the browser opens when somebody
looks at the flips of two models. Words of models, judges and data reach the page through the template's escaping or as
JSON that becomes text nodes; besides, the page's own policy lets the browser run one script and one style, known by
their digests, and load no image but those within the page.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.board.board import newest
from leaderboards.board.entry import Entry, Key
from leaderboards.views import glossary
from leaderboards.views.categories import CategoryTable
from leaderboards.views.columns import NO_COMPARISON, BoardComparison
from leaderboards.views.learning_curves import Point
from leaderboards.views.page_answers import ANSWERS, Loader, Marker, Thumbnails, mark, pack
from leaderboards.views.page_names import short_names
from leaderboards.views.page_tables import BoardTable, answers_of, board_table, cost_table, reported_table, run_table
from leaderboards.views.published import Reference
from leaderboards.views.svg_charts import CurveChart, bars, curve, profile
from leaderboards.views.verdict_words import verdict_sentences
from support.errors import BoardError, did_you_mean
from support.files import atomic_write
from support.latex import latex_characters
from support.markdown import line, number

if TYPE_CHECKING:
    from jinja2 import Template

_FILES = Path(__file__).with_name("page")

_SCRIPTS = ("page.js", "page_export.js")

_BASE_HERE = "\0"  # in a sentence, where the template puts the base's name; in no name on one line

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; connect-src {own}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, kw_only=True)
class PageExtras:
    """What the page shows beside scores and answers."""

    thumbnails: Thumbnails | None = None
    """Small pictures of what was asked about."""

    curves: Mapping[str, Mapping[str, Sequence[Point]]] = field(default_factory=dict)
    """Metric label -> arm -> scored checkpoints."""

    best: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Metric label -> the best checkpoint of each arm, and its score on images that did not choose it, in words."""

    categories: Sequence[CategoryTable] = ()
    """Scores by kind of question."""

    references: Sequence[Reference] = ()
    """What others reported; shown are those of metrics on this board, apart from its scores."""

    notes: Sequence[str] = ()
    """Shown on top, such as files of the board that could not be read."""

    marks: Marker = mark
    """What an answer gets."""

    live: str = ""
    """Of a page that a server makes anew: the state that it shows, as the server's ETag has it. The browser loads the
    page again where that has changed."""

    answers: int = ANSWERS
    """The most answers in the page; of more, those questions are kept on which most models differ."""


def page(
    entries: Sequence[Entry],
    *,
    title: str,
    base: str | None = None,
    samples: Loader | None = None,
    comparison: BoardComparison = NO_COMPARISON,
    extras: PageExtras | None = None,
) -> str:
    """The page's text; the same for the same arguments.

    `base` is the model that the comparison is with. BoardError for a base, verdict, rank or protocol difference of
    which the board has no score, and for a thumbnail that is no small image.
    """
    from markupsafe import Markup

    extras = extras or PageExtras()
    shown = newest(entries)
    models = list(dict.fromkeys(entry.model for entry in shown))
    if base is not None and base not in models:
        raise BoardError(f"base model {base!r} is not on the board{did_you_mean(base, models)}")
    keyed = comparison.verdicts, comparison.ranks, comparison.protocol_differences, comparison.corrected
    _check_keys([key for found in keyed for key in found], shown)
    board = board_table(shown, base, comparison)
    archive = pack(
        answers_of(board.columns), samples, thumbnails=extras.thumbnails, marks=extras.marks, answers=extras.answers
    )
    headlines = [
        (column, [_readable(entry) for entry in column.entries]) for column in board.columns if column.headline
    ]
    script, style = ("\n".join(map(_read_file, names)) for names in (_SCRIPTS, ("page.css",)))
    text = _load_template().render(
        title=line(title),
        live=extras.live,
        categories=extras.categories,
        policy=_policy(script, style, extras),
        script=Markup(script),  # like the style a file of ours, which holds no name and no answer
        style=Markup(style),
        base=base,
        models=models,
        tasks=list(dict.fromkeys(column.key.task for column in board.columns)),
        board=board,
        bars=[(column, bars(own, base=base and line(base))) for column, own in headlines],
        profile=profile(
            [own for column, own in headlines if not column.key.neutral], [line(model) for model in models]
        ),
        curves=_curves_of(extras),
        best={line(label): words for label, words in extras.best.items()},
        costs=cost_table(shown),
        runs=run_table(shown),
        partial=any(entry.partial for entry in shown),
        reported=reported_table(extras.references, board.columns),
        notes=[line(note) for note in [*extras.notes, *archive.notes]],
        archive=archive,
        number=number,
        line=line,
        **_words_of(board),
        **_names_of(models, extras.curves, base, board),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair must not cost the page


def _policy(script: str, style: str, extras: PageExtras) -> str:
    own = "'self'" if extras.live else "'none'"
    return _POLICY.format(script=_digest(script), style=_digest(style), own=own)


def _curves_of(extras: PageExtras) -> list[CurveChart]:
    drawn = (curve(line(label), {line(arm): own for arm, own in arms.items()}) for label, arms in extras.curves.items())
    return [chart for chart in drawn if chart]


def _words_of(board: BoardTable) -> dict[str, Any]:
    """What the page says of its intervals, p-values and marks, of those that it has."""
    outcomes = {row.outcome.partition(":")[0] for row in board.against}
    return {
        "glossary": glossary.__dict__,
        "latex": latex_characters(),
        "p_is": glossary.p_of(glossary.OF_BOARD, glossary.unit_of(bool(row.seeds) for row in board.against)),
        "ranked": any(cell is not None and cell.rank for row in board.rows for cell in row.cells),
        "signs": [text for sign, text in glossary.SIGNS.items() if sign in outcomes],
    }


def _names_of(
    models: Sequence[str], curves: Mapping[str, Iterable[str]], base: str | None, board: BoardTable
) -> dict[str, Any]:
    """What models and arms of curves are called, and what the verdicts say of each model."""
    short = short_names(map(line, models))
    return {
        "short": short_names(line(arm) for arms in curves.values() for arm in arms) | short,
        "verdicts": {}
        if base is None
        else {
            model: said.split(_BASE_HERE) for model, said in verdict_sentences(board.against, base=_BASE_HERE).items()
        },
    }


def _load_template() -> "Template":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def write_page(path: Path, html: str) -> None:
    """Write the page, as a whole or not at all."""
    atomic_write(path, html.encode())


def _readable(entry: Entry) -> Entry:
    """With names on one line, as drawings show them."""
    model, task, metric = (line(name) or "?" for name in (entry.model, entry.task, entry.metric))
    return replace(entry, model=model, task=task, metric=metric)


def _check_keys(keys: Iterable[Key], entries: Iterable[Entry]) -> None:
    known = {entry.key for entry in entries}
    for key in keys:
        if key not in known:
            model, task, metric, version, judge = key
            raise BoardError(
                f"verdict or rank of {model!r} on {task} {metric} (version {version}, judge {judge}): "
                "no such score is shown"
            )


def _read_file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
