"""Result files of lm-eval and lmms-eval read as entries.

    found = read_results(Path("results_2026-01-31T12-00-00.json"))   # lmms-eval: 20260131_120000_results.json
    board.add(found.entries, [])        # the run is named after the file's digest, so a second time changes nothing

An imported number says so in its provenance ("imported", "source", "source digest"). Its version names the tool, the
tool's version, the task's version and the number of examples, so it never shares a column with other numbers.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from leaderboards.board.entry import MODEL_SIZE, Entry
from leaderboards.board.export_results import SPREAD
from support.errors import BoardError

LM_EVAL: Final = "lm-eval"
LMMS_EVAL: Final = "lmms-eval"

LMMS_EVAL_ZONE: Final = timezone(timedelta(hours=8))
"""lmms-eval writes local times of Singapore, where `--timezone` does not say otherwise."""

MODEL_ARGS: Final = (
    "peft",
    "delta",
    "pretrained",
    "model",
    "model_version",
    "model_name",
    "model_id",
    "path",
    "engine",
)
"""Arguments that name a model, the most telling first."""

_NO_METRICS: Final = ("alias", "name", "sample_len", "sample_count", "samples")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a file of results became."""

    entries: list[Entry]

    left_out: list[str]
    """What in it is no number, a line each."""


def read_results(path: Path, *, model: str | None = None, created: str | None = None) -> Imported:
    """The entries of a result file of lm-eval or lmms-eval; BoardError.

    `model` is what the board shall call the model, and `created` (ISO 8601, UTC) when it ran: where the file does not
    say, they must be given. Values are taken as they are, so a share of 1 stays that; intervals come from standard
    errors, those over clusters first.
    """
    try:
        data = path.read_bytes()
        found = json.loads(data)
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}; give a results_*.json of lm-eval or lmms-eval") from None
    except (ValueError, RecursionError) as error:
        raise BoardError(f"{path}: no JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("results"), dict) or not found["results"]:
        raise BoardError(
            f'{path}: no results of lm-eval or lmms-eval: they are a JSON object with the scores under "results"'
        )
    return _File(path, found, hashlib.sha256(data).hexdigest()).read(model, created)


@dataclass(frozen=True)
class _File:
    """A result file and where it is, for errors."""

    path: Path
    data: Mapping[str, Any]
    digest: str

    def part(self, *names: str) -> Mapping[str, Any]:
        """A mapping within it; empty where it is not there, or is none."""
        found: Any = self.data
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def config(self) -> Mapping[str, Any]:
        """How the tool was called."""
        return self.part("config") or self.part("model_configs")

    @property
    def tool(self) -> str:
        """Which of the two wrote it. lmms-eval's file names end in what lm-eval's begin with."""
        lmms = (
            "lmms_eval_version" in self.data or self.path.name.endswith("_results.json") or "model_configs" in self.data
        )
        return LM_EVAL if "lm_eval_version" in self.data or not lmms else LMMS_EVAL

    def read(self, model: str | None, created: str | None) -> Imported:
        model = model or self.model()
        created = created or self.created()
        shared = self.provenance()
        entries, left_out = [], []
        for task, scores in self.part("results").items():
            if not isinstance(scores, dict):
                left_out.append(f"{task}: {scores!r:.40}")
                continue
            metrics, no_numbers = _metrics(scores)
            left_out += [f"{task}: {name}: {value!r:.40}" for name, value in no_numbers.items()]
            entries += self.of_task(task, scores, metrics, model, created, shared)
        if not entries:
            raise BoardError(f"{self.path}: no numbers in its results: {'; '.join(left_out) or 'they are empty'}")
        return Imported(entries=entries, left_out=left_out)

    def of_task(
        self,
        task: str,
        scores: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        model: str,
        created: str,
        shared: Mapping[str, str],
    ) -> list[Entry]:
        asked, scored, limit = self.counts(task)
        directions, config = self.part("higher_is_better", task), self.part("configs", task)
        facts = {
            **shared,
            **({"task": _digest(config)} if config else {}),
            **_words(self.part("task_hashes"), {"task hash": task}),
        }
        entries = []
        for index, (metric, value) in enumerate(metrics.items()):
            low, high, source = _interval(scores, metric, value)
            direction = directions.get(metric.partition(",")[0])
            known = {"interval": source} if source else {}
            known |= {} if isinstance(direction, bool) else {"direction": "not stated; taken for higher is better"}
            try:
                entries.append(
                    Entry(
                        run=f"{self.tool}-{self.digest[:16]}",
                        model=model,
                        task=task,
                        version=self.version(task),
                        metric=metric,
                        value=value,
                        unit="",
                        higher_is_better=direction if isinstance(direction, bool) else True,
                        headline=index == 0,
                        samples=asked,
                        unscored=asked - scored,
                        low=low,
                        high=high,
                        limit=limit,
                        judge=_text(self.part("configs", task, "metadata").get("gpt_eval_model_name")) or None,
                        seconds=self.seconds(task),
                        cost=0.0,
                        created=created,
                        provenance=facts | known,
                    )
                )
            except ValueError as error:
                raise BoardError(f"{self.path}: {task} {metric}: {error}") from None
        return entries

    def model(self) -> str:
        """What the tool called the model."""
        given = self.config.get("model_args")
        arguments = (
            given if isinstance(given, dict) else dict(part.partition("=")[::2] for part in str(given or "").split(","))
        )
        named = (str(arguments[name]).strip("\"'") for name in MODEL_ARGS if arguments.get(name))
        name = _text(self.data.get("model_name")) or next(named, "") or _text(self.config.get("model"))
        if not name:
            raise BoardError(f"{self.path}: it does not say which model was scored: name it")
        return name

    def created(self) -> str:
        """When the tool ran: lm-eval writes seconds since 1970, lmms-eval a local time."""
        date, zone = self.data.get("date"), self.zone()
        try:
            if isinstance(date, int | float) and not isinstance(date, bool):
                return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds")
            if isinstance(date, str) and re.fullmatch(r"\d{8}_\d{6}", date):
                local = datetime.strptime(date, "%Y%m%d_%H%M%S").replace(tzinfo=zone)
                return local.astimezone(UTC).isoformat(timespec="seconds")
        except (ValueError, OverflowError, OSError):
            pass
        raise BoardError(f"{self.path}: it does not say when the model was scored (date is {date!r}): give the time")

    def zone(self) -> Any:
        """Of lmms-eval's local time."""
        from zoneinfo import ZoneInfo

        name = self.part("config", "resolved_cli_args").get("timezone")
        try:
            return ZoneInfo(name) if isinstance(name, str) else LMMS_EVAL_ZONE
        except (OSError, ValueError, KeyError):
            raise BoardError(f"{self.path}: no such time zone here: {name!r}: give the time") from None

    def version(self, task: str) -> str:
        """All that tells its columns from others."""
        tool_version = (
            _text(self.data.get("lm_eval_version" if self.tool == LM_EVAL else "lmms_eval_version")) or "unknown"
        )
        version, shots = self.part("versions").get(task), self.part("n-shot").get(task)
        parts = [f"{self.tool} {tool_version}", f"task {'unknown' if version is None else version}"]
        return "/".join([*parts, *([f"{shots}-shot"] if isinstance(shots, int) else [])])

    def counts(self, task: str) -> tuple[int, int, int | None]:
        """Documents asked and scored, and the limit; 0 where the file does not say. A group's are those of its
        tasks."""
        known, members = self.part("n-samples", task), self.part("group_subtasks").get(task)
        if not known and isinstance(members, list) and members and task not in members:
            of_members = [self.counts(str(member)) for member in members]
            limits = [limit for _, _, limit in of_members if limit is not None]
            return (
                sum(asked for asked, _, _ in of_members),
                sum(scored for _, scored, _ in of_members),
                sum(limits) if limits else None,
            )
        scored = _count(known.get("effective")) or _count(self.part("results", task).get("sample_len")) or 0
        whole = max(_count(known.get("original")) or 0, scored)
        limit = self.config.get("limit")
        if (
            not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 < limit < float("inf")
        ):  # lmms-eval writes -1 for none
            return whole, scored, None
        asked = int(limit) if limit >= 1 else scored  # below 1 it is a share, which each tool rounds as it likes
        asked = max(min(asked, whole) if whole else asked, scored)
        return asked, scored, max(1, asked)

    def seconds(self, task: str) -> float:
        """Its share of the whole run's time, by documents."""
        try:
            total = float(self.data.get("total_evaluation_time_seconds") or 0.0)
        except (TypeError, ValueError):
            return 0.0
        leaves = [name for name in self.part("results") if self.part("n-samples", name)]
        documents = sum(self.counts(name)[1] for name in leaves)
        share = self.counts(task)[1] / documents if documents else 1 / len(self.part("results"))
        return round(total * share, 2) if 0 <= total < float("inf") else 0.0

    def provenance(self) -> dict[str, str]:
        facts = {"imported": self.tool, "source": self.path.name, "source digest": self.digest}
        facts |= _words(
            self.data,
            {
                "lm-eval": "lm_eval_version",
                "lmms-eval": "lmms_eval_version",
                "transformers": "transformers_version",
                "commit": "git_hash",
                "chat template": "chat_template_sha",
                "system instruction": "system_instruction_sha",
            },
        )
        facts |= _words(
            self.config,
            {
                "model type": "model",
                "model arguments": "model_args",
                "model revision": "model_sha",
                MODEL_SIZE: "model_num_parameters",
                "device": "device",
                "seed": "random_seed",
                "generation": "gen_kwargs",
                "batch size": "batch_size",
            },
        )
        return facts


def _metrics(scores: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, object]]:
    """A task's numbers by metric, and what is none. A filter is part of a metric's name but where it is "none"."""
    metrics: dict[str, float | None] = {}
    others: dict[str, object] = {}
    for name, value in scores.items():
        metric = name.removesuffix(",none")
        if name in _NO_METRICS or "_stderr" in name:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) == float("inf"):
            others[metric] = value
        else:
            metrics[metric] = float(value) if value == value else None
    return metrics, others


def _interval(
    scores: Mapping[str, Any], metric: str, value: float | None
) -> tuple[float, float, str] | tuple[None, None, str]:
    """Both ends, and in words where they are from."""
    name, _, given = metric.partition(",")
    filters = f",{given}" if given else ",none"
    for kind in ("stderr_clustered", "stderr"):
        error = next((scores[key] for key in (f"{name}_{kind}{filters}", f"{name}_{kind}") if key in scores), None)
        if (
            value is not None
            and isinstance(error, int | float)
            and not isinstance(error, bool)
            and 0 < error < float("inf")
        ):
            return value - SPREAD * error, value + SPREAD * error, f"{SPREAD} times the file's {kind}"
    return None, None, ""


def _words(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """What a file states, as facts by these names."""
    found = {fact: data.get(name) for fact, name in names.items()}
    return {
        fact: value if isinstance(value, str) else json.dumps(value)
        for fact, value in found.items()
        if value not in (None, "", [], {})
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
