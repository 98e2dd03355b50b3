"""Entries, logs and gates for the tests of this folder."""

import base64
import gzip
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import unescape
from typing import Any

from PIL import Image

from leaderboards.board.entry import Entry
from leaderboards.board.sample import Sample
from leaderboards.comparison.paired_logs import Loader
from leaderboards.gate.gate import GateSettings, check
from leaderboards.gate.result import GateResult
from leaderboards.gate.source import GateSource
from leaderboards.statistics.resampling import CountsMetric
from leaderboards.views import html_page
from leaderboards.views.columns import BoardComparison
from leaderboards.views.html_page import PageExtras
from tasks.metric import mean_of

MakeEntry = Callable[..., Entry]
MakeSample = Callable[..., Sample]

METRIC = mean_of("hallucinated", scale=100)

LIKE_BASE = [1] * 12 + [0] * 48
WORSE = [1] * 30 + [0] * 30
SLIGHTLY_WORSE = [1] * 13 + [0] * 47
BETTER = [0] * 60


def logs(**runs: Sequence[int | None]) -> Loader:
    """A loader of runs, each given by its hallucinations, one an image; None = unscored. Other runs kept no log."""

    def load(run: str) -> list[Sample]:
        if run not in runs:
            return []
        return [
            Sample(
                run=run,
                task="scenes_chair",
                id=str(index),
                image=f"scene-{index}",
                prompt="Describe.",
                answer="A circle.",
                records={} if value is None else {"CHAIR_s": {"image": f"scene-{index}", "hallucinated": value}},
                reply=None,
            )
            for index, value in enumerate(runs[run])
        ]

    return load


NO_LOGS = logs()
NOTHING = GateSource(entries=[], samples=NO_LOGS)


def as_logged(entry: Entry, load: Loader) -> Entry:
    """The entry with the value that its log gives, where there is one."""
    try:
        records = [sample.records.get("CHAIR_s") for sample in load(entry.run)]
    except (ValueError, OSError):
        return entry
    found = [record["hallucinated"] for record in records if record is not None]
    return replace(entry, value=100 * sum(found) / len(found)) if found and entry.value is not None else entry


def gate(
    baseline: Entry | Sequence[Entry],
    current: Entry | Sequence[Entry],
    before: Loader | Sequence[int | None] = NO_LOGS,
    after: Loader | Sequence[int | None] = NO_LOGS,
    *,
    metric: CountsMetric | None = METRIC,
    as_given: bool = False,
    more: GateSource = NOTHING,
    **settings: Any,
) -> GateResult:
    """Entries have the value that their log gives, unless `as_given`; `more` is what else the baseline tells."""
    sides = []
    for entries, log, run in ((baseline, before, "old"), (current, after, "new")):
        load = log if callable(log) else logs(**{run: log})
        own = [entries] if isinstance(entries, Entry) else entries
        own = own if as_given else [as_logged(entry, load) for entry in own]
        sides.append(GateSource(entries=own, samples=load))
    return check(
        replace(more, entries=sides[0].entries, samples=sides[0].samples),
        sides[1],
        metrics=lambda task, name: None if name == "coverage" else metric,
        settings=GateSettings(resamples=1000, **settings),
    )


TOLERANT = {"scenes_chair.CHAIR_s": 99.0}


def of_all(load: Loader, tasks: Sequence[str] = ("scenes_chair",), metrics: Sequence[str] = ("CHAIR_s",)) -> Loader:
    """The same log for several tasks, or for several metrics."""
    return lambda run: [
        replace(sample, task=task, records=dict.fromkeys(metrics, sample.records["CHAIR_s"]))
        for sample in load(run)
        for task in tasks
    ]


def changed(load: Loader, only: str | None = None, **changes: Any) -> Loader:
    """A log with one sample, or all, changed."""
    return lambda run: [replace(one, **changes) if only in (None, one.id) else one for one in load(run)]


def page(entries: Sequence[Entry], *, title: str = "Board", base: str | None = None, **shown: Any) -> str:
    """The page; what is beside the scores, and its extras, as plain arguments."""
    beside = {name: shown.pop(name) for name in ("verdicts", "ranks", "protocol_differences") if name in shown}
    samples = shown.pop("samples", None)
    comparison, extras = BoardComparison(**beside), PageExtras(**shown)
    return html_page.page(entries, title=title, base=base, samples=samples, comparison=comparison, extras=extras)


LM_EVAL: dict[str, Any] = {
    "results": {
        "gsm8k": {
            "name": "gsm8k",
            "alias": "gsm8k",
            "sample_len": 1319,
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": 0.01,
            "exact_match,flexible-extract": 0.6,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "mmlu": {
            "name": "mmlu",
            "alias": "mmlu",
            "sample_count": {"acc,none": 300},
            "acc,none": 0.4,
            "acc_stderr,none": 0.02,
        },
        "mmlu_a": {"alias": " - a", "sample_len": 100, "acc,none": 0.4, "acc_stderr,none": 0.05},
        "mmlu_b": {"alias": " - b", "sample_len": 200, "acc,none": float("nan"), "acc_stderr,none": float("nan")},
        "wiki": {"alias": "wiki", "sample_len": 60, "word_perplexity,none": 11.5, "word_perplexity_stderr,none": "N/A"},
    },
    "group_subtasks": {"mmlu": ["mmlu_a", "mmlu_b"], "gsm8k": [], "wiki": []},
    "configs": {"gsm8k": {"task": "gsm8k", "num_fewshot": 5}, "wiki": {"task": "wiki"}},
    "versions": {"gsm8k": 3.0, "mmlu": 2, "mmlu_a": 1.0, "mmlu_b": 1.0, "wiki": 2.0},
    "n-shot": {"gsm8k": 5, "mmlu_a": 0, "mmlu_b": 0, "wiki": 0},
    "higher_is_better": {"gsm8k": {"exact_match": True}, "mmlu_a": {"acc": True}, "wiki": {"word_perplexity": False}},
    "n-samples": {
        "gsm8k": {"original": 1319, "effective": 1319},
        "mmlu_a": {"original": 100, "effective": 100},
        "mmlu_b": {"original": 200, "effective": 200},
        "wiki": {"original": 62, "effective": 60},
    },
    "config": {
        "model": "hf",
        "model_args": {"pretrained": "org/model"},
        "model_sha": "abc",
        "limit": None,
        "device": "cuda:0",
        "random_seed": 0,
    },
    "git_hash": "12ab34c",
    "date": 1767268800.5,
    "lm_eval_version": "0.4.13",
    "transformers_version": "5.23.0",
    "task_hashes": {"gsm8k": "feed"},
    "model_source": "hf",
    "model_name": "org/model",
    "model_name_sanitized": "org__model",
    "chat_template_sha": None,
    "total_evaluation_time_seconds": "1679.0",
}
"""A result file of lm-eval."""


def picture(colour: str, kind: str = "WEBP") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(data, kind)
    return data.getvalue()


def index(html: str) -> list[dict[str, Any]]:
    """What the page's script reads first."""
    found = re.search(r'<script type="application/json" id="index">(.*?)</script>', html, re.S)
    assert found
    logs: list[dict[str, Any]] = json.loads(found[1])["logs"]
    return logs


def block(html: str, id: str) -> Any:
    found = re.search(rf'<script type="text/plain" id="{id}">(.*?)</script>', html)
    assert found
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def text_of(html: str) -> str:
    """What is read: the page without its scripts, style and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def logs_of(*samples: Sample) -> Callable[[str], Sequence[Sample]]:
    def load(run: str) -> list[Sample]:
        if not (own := [sample for sample in samples if sample.run == run]):
            raise FileNotFoundError(run)
        return own

    return load
