"""The board's results as files of other tools: lm-eval's results, and the Hugging Face hub's.

made = lm_eval_files(entries)                           # {"MODEL/results_TIME.json": text, ...}
made = hub_files(entries, source_url="https://...")     # {"MODEL/.eval_results/mme.yaml": text, ...}
write_files(Path("out"), made.files)                    # made.refused: models that have no file, and why
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leaderboards.board.entry import Entry
from support.errors import BoardError, did_you_mean
from support.files import atomic_write
from support.markdown import line

SPREAD: Final = 1.96
"""Standard errors from the value to either end of a 95% interval."""

_LONGEST: Final = 200
"""Bytes of a folder's name; file systems take 255."""

_TASK_ID: Final = re.compile(r"(?:(?P<dataset>[\w.-]+/[\w.-]+)/)?(?P<id>[\w.-]+)", re.ASCII)

_HUB: Final = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)", re.ASCII)


def lm_eval_results(entries: Sequence[Entry]) -> dict[str, Any]:
    """One model's entries as lm-eval's results, keys and all; BoardError for several models, or two entries of one
    metric.

    Values keep our units. Standard errors are those that the interval would have if it were a normal one.
    """
    models = list(dict.fromkeys(entry.model for entry in entries))
    if len(models) != 1:
        raise BoardError(
            f"a result file of lm-eval is of one model, not of {len(models)}: {', '.join(models) or 'none'}"
        )
    # Whoever reads it back takes a task's first metric for the headline.
    entries = sorted(entries, key=lambda entry: not entry.headline)
    of_task: dict[str, Entry] = {}
    directions: dict[str, dict[str, bool]] = {}
    for entry in entries:
        of_task.setdefault(entry.task, entry)
        directions.setdefault(entry.task, {})[entry.metric.partition(",")[0]] = entry.higher_is_better
    results, some, facts = _scores_by_task(entries), entries[0], entries[0].provenance
    limits = [entry.limit for entry in entries if entry.limit is not None]
    digests = {task: entry.provenance["task"] for task, entry in of_task.items() if "task" in entry.provenance}
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {task: _config(entry, results[task]) for task, entry in of_task.items()},
        "versions": {task: entry.version for task, entry in of_task.items()},
        "n-shot": {task: 0 for task, entry in of_task.items() if entry.imported is None},
        "higher_is_better": directions,
        "n-samples": {task: {"original": entry.samples, "effective": entry.scored} for task, entry in of_task.items()},
        "config": {
            "model": "vlm-harness",
            "model_args": {"pretrained": some.model},
            "model_sha": some.weights or "",
            "batch_size": None,
            "device": facts.get("device"),
            "limit": max(limits, default=None),
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": int(facts["seed"]) if facts.get("seed", "").isdecimal() else None,
        },
        "git_hash": facts.get("commit"),
        "date": some.when.timestamp(),
        "lm_eval_version": facts.get("lm-eval"),
        "transformers_version": facts.get("transformers"),
        "task_hashes": digests,
        "model_source": "vlm-harness",
        "model_name": some.model,
        "model_name_sanitized": sanitized(some.model),
        "total_evaluation_time_seconds": str(sum(entry.seconds for entry in of_task.values())),
    }


def _scores_by_task(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """lm-eval's "results": each task's values and standard errors by metric."""
    results: dict[str, dict[str, Any]] = {}
    first_of: dict[str, Entry] = {}
    for entry in entries:
        first = first_of.setdefault(entry.task, entry)
        scores = results.setdefault(entry.task, {"name": entry.task, "alias": entry.task, "sample_len": entry.scored})
        if _with_filter(entry.metric) in scores or (first.version, first.judge) != (entry.version, entry.judge):
            both = "; ".join(f"version {one.version}, judge {one.judge or 'none'}" for one in (first, entry))
            raise BoardError(
                f"{entry.task}: one version, judge and number a metric, but there are two of {entry.metric} ({both})"
            )
        error: float | str = "N/A"
        if entry.low is not None and entry.high is not None:
            error = entry.high / (2 * SPREAD) - entry.low / (2 * SPREAD)
        scores |= {_with_filter(entry.metric): entry.value, _with_filter(entry.metric, "_stderr"): error}
    return results


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of one model."""

    files: Mapping[str, str]
    """Path in its folder or repository -> text."""

    left_out: list[str]
    """What is not in them, and why, a line each."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Files of several models, none of them written yet."""

    files: dict[str, str] = field(default_factory=dict)
    """Path below the folder of the export -> text."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Model -> its scores that are in no file, and why, a line each."""

    refused: dict[str, str] = field(default_factory=dict)
    """Models that have no file at all, and why."""


def lm_eval_files(entries: Sequence[Entry]) -> Exported:
    """MODEL/results_TIME.json of each model, as lm-eval writes them."""

    def of_model(own: Sequence[Entry]) -> Files:
        time = max(entry.when for entry in own).strftime("%Y-%m-%dT%H-%M-%S.%f")
        text = json.dumps(lm_eval_results(own), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return Files(files={f"results_{time}.json": text}, left_out=[])

    return _export_models(entries, of_model)


def hub_files(
    entries: Sequence[Entry], *, source_url: str | None = None, task_ids: Mapping[str, str] | None = None
) -> Exported:
    """MODEL/.eval_results/*.yaml and MODEL/model-index.yaml of each model; BoardError for an ill-formed URL or task
    id."""
    import yaml

    check_hub(entries, source_url, task_ids or {})

    def of_model(own: Sequence[Entry]) -> Files:
        index = yaml.safe_dump(model_index(own[0].model, own), sort_keys=False, allow_unicode=True)
        found = hub_results(own, source_url=source_url, task_ids=task_ids)
        return Files(files={**found.files, "model-index.yaml": index}, left_out=found.left_out)

    return _export_models(entries, of_model)


def _export_models(entries: Sequence[Entry], of_model: Callable[[Sequence[Entry]], Files]) -> Exported:
    found = Exported()
    by_model: dict[str, list[Entry]] = {}
    for entry in entries:
        by_model.setdefault(entry.model, []).append(entry)
    folders = folders_of(by_model)
    for model, own in by_model.items():
        try:
            made = of_model(own)
        except BoardError as error:
            found.refused[model] = str(error).removeprefix(f"{model}: ")
            continue
        found.files.update({f"{folders[model]}/{name}": text for name, text in made.files.items()})
        if made.left_out:
            found.left_out[model] = made.left_out
    return found


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write them below `folder`, each whole or not at all; where they are."""
    written = []
    for name, text in files.items():
        atomic_write(folder / name, text.encode("utf-8", "replace"))
        written.append(folder / name)
    return written


def folders_of(models: Iterable[str]) -> dict[str, str]:
    """A folder of its own for each model, also where capitals are not told apart: `sanitized`, with a digest where
    several share that."""
    folders = {}
    for model in models:
        name = sanitized(model)
        folders[model] = name if _cut(name) == name else _add_digest(model, _cut(name))
    while shared := {name for name, count in Counter(map(str.casefold, folders.values())).items() if count > 1}:
        for model, name in folders.items():
            if name.casefold() in shared:
                folders[model] = _add_digest(model, name)
    return folders


def _add_digest(model: str, name: str) -> str:
    return f"{name}-{hashlib.sha256(model.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _cut(name: str) -> str:
    """The first `_LONGEST` bytes of a name."""
    return name.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")


def sanitized(model: str) -> str:
    """A model's name as lm-eval names folders, but none that leads elsewhere."""
    name = line(re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", model))
    return name if name.strip(".") else "__"


def _with_filter(metric: str, suffix: str = "") -> str:
    name, _, given = metric.partition(",")
    return f"{name}{suffix},{given or 'none'}"


def _config(entry: Entry, scores: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a task's configuration as an entry knows."""
    metrics = [name.partition(",")[0] for name in scores if "," in name and "_stderr," not in name]
    data = _HUB.fullmatch(entry.provenance.get("data", ""))
    metadata: dict[str, Any] = {"version": entry.version} | (
        {"gpt_eval_model_name": entry.judge} if entry.judge else {}
    )
    found: dict[str, Any] = {"task": entry.task, "metadata": metadata}
    found |= {"dataset_path": data["id"]} if data else {}
    return found | {"metric_list": [{"metric": metric} for metric in dict.fromkeys(metrics)]}


def hub_results(
    entries: Sequence[Entry], *, source_url: str | None = None, task_ids: Mapping[str, str] | None = None
) -> Files:
    """Headline scores in the hub's format, a file each; BoardError for several models.

    The hub knows a benchmark by its dataset and a task id that the dataset's own eval.yaml defines. `task_ids` gives
    them by task, as ID or as OWNER/NAME/ID; else they are the data scored and the task's name. Interval, judge and
    counts are in the notes, for which the format has no fields, and so are the data where they are not the dataset
    named. `source_url` links to the evidence.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    models = list(dict.fromkeys(entry.model for entry in entries))
    if len(models) > 1:
        raise BoardError(f"files for the hub are of one model, not of {len(models)}: {', '.join(models)}")
    files: dict[str, str] = {}
    left_out: list[str] = []
    for entry in entries:
        if not entry.headline:
            continue
        name = f"{entry.task} {entry.metric}" + (f" (judge {entry.judge})" if entry.judge else "")
        scored_on = entry.provenance.get("data", "")
        data, given = _HUB.fullmatch(scored_on), _TASK_ID.fullmatch((task_ids or {}).get(entry.task, entry.task))
        dataset = (given and given["dataset"]) or (data and data["id"])
        same = data is not None and dataset == data["id"]
        other = scored_on if data or "/" not in scored_on else "local data"  # whose path is nobody else's business
        if entry.value is None:
            left_out.append(f"{name}: no score")
        elif entry.partial:
            left_out.append(f"{name}: of a part of the benchmark")
        elif dataset is None:
            left_out.append(f"{name}: its data ({scored_on or 'not known'}) are no dataset on the hub")
        else:
            result = EvalResultEntry(
                dataset_id=dataset,
                task_id=given["id"] if given else entry.task,
                value=entry.value,
                dataset_revision=entry.provenance.get("revision", data["revision"]) if same and data else None,
                date=entry.created,
                source_url=source_url,
                notes=_notes(entry) + ("" if same else f"; scored on {other or 'data not known'}"),
            )
            path = _hub_path(entry, files)
            files[path] = yaml.safe_dump(eval_result_entries_to_yaml([result]), sort_keys=False, allow_unicode=True)
    return Files(files=files, left_out=left_out)


def check_hub(entries: Sequence[Entry], source_url: str | None, task_ids: Mapping[str, str]) -> None:
    """BoardError for a link that is none, a task nobody was scored on, or an id that is neither ID nor
    OWNER/NAME/ID."""
    if source_url is not None and not re.fullmatch(r"https?://[^\s/]+\S*", source_url):
        raise BoardError(f"source URL {source_url!r}: must begin with https:// or http://")
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    for task, given in task_ids.items():
        if task not in tasks:
            raise BoardError(f"hub task {task!r}: nobody was scored on it{did_you_mean(task, tasks)}")
        if not _TASK_ID.fullmatch(given):
            raise BoardError(f"hub task {task}={given}: must be {task}=ID or {task}=OWNER/NAME/ID")


def model_index(model: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """All scores of one model as the hub's older model-index, to be merged into the head of its card; without partial
    ones.

    Interval, judge and counts are in a metric's `args`. BoardError where there is no score.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = []
    for entry in entries:
        if entry.value is None or entry.partial:
            continue
        data = _HUB.fullmatch(entry.provenance.get("data", ""))
        results.append(
            EvalResult(
                task_type="image-text-to-text",
                task_name=entry.task,
                dataset_type=data["id"] if data else entry.task,
                dataset_name=entry.task,
                dataset_config=f"{entry.task} {entry.version}" + (f", judge {entry.judge}" if entry.judge else ""),
                dataset_revision=entry.provenance.get("revision", data["revision"]) if data else None,
                metric_type=entry.metric,
                metric_name=f"{entry.metric} ({entry.unit})" if entry.unit else entry.metric,
                metric_value=entry.value,
                metric_args={name: value for name, value in _facts(entry).items() if value is not None},
            )
        )
    if not results:
        raise BoardError(f"{model}: no whole score to put into a model card")
    return {"model-index": eval_results_to_model_index(model, results)}


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "low": entry.low,
        "high": entry.high,
        "higher_is_better": entry.higher_is_better,
        "samples": entry.samples,
        "unscored": entry.unscored or None,
        "failed": entry.failed or None,
        "judge": entry.judge,
        "run": entry.run,
    }


def _notes(entry: Entry) -> str:
    """What the format has no fields for, in one line."""
    parts = [
        f"{entry.metric}{f' ({entry.unit})' if entry.unit else ''}, "
        f"{'higher' if entry.higher_is_better else 'lower'} is better",
        f"95% interval {entry.low:.6g} to {entry.high:.6g}"
        if entry.low is not None and entry.high is not None
        else "no interval",
        f"{entry.scored} of {entry.samples} samples scored",
        f"judge {entry.judge}" if entry.judge else "",
        f"task version {entry.version}",
        f"computed by {entry.imported}"
        if entry.imported
        else f"vlm-harness {entry.provenance.get('vlm-harness', '')}".rstrip(),
        f"run {entry.run}",
    ]
    return "; ".join(part for part in parts if part)


def _hub_path(entry: Entry, taken: Mapping[str, str]) -> str:
    """A file of its own: variants of one benchmark may not share one."""
    words = entry.task if entry.judge is None else f"{entry.task}_{entry.judge}"
    stem = _cut(re.sub(r"[^A-Za-z0-9_-]+", "_", words).strip("_")) or "result"
    path, number = f".eval_results/{stem}.yaml", 2
    while path in taken:
        path, number = f".eval_results/{stem}_{number}.yaml", number + 1
    return path
