"""What the verdicts say of each model, in one sentence.

    verdict_sentences(board.against, base="scenes-base")
    # {"runs/checkpoint-47": "is better than {base} on 1 of 4 tasks, worse on coverage."}

A task counts by its headline metrics; what is worse is named whatever the metric, so that no fall stays unsaid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from leaderboards.views.page_tables import VerdictRow
from support.markdown import line


def verdict_sentences(rows: Sequence[VerdictRow], *, base: str) -> dict[str, str]:
    """Model -> what follows its name. `base` is how the base is called."""
    metrics = Counter(metric for _, metric in {row.column.key.metric_of_task for row in rows})
    return {model: _say(own, base, metrics) for model, own in _by_model(rows).items()}


def _by_model(rows: Iterable[VerdictRow]) -> dict[str, list[VerdictRow]]:
    found: dict[str, list[VerdictRow]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    return found


def _say(rows: Sequence[VerdictRow], base: str, metrics: Counter[str]) -> str:
    def called(row: VerdictRow) -> str:
        task, metric = row.column.key.metric_of_task
        return line(metric if metrics[metric] == 1 else f"{task} {metric}")

    of_task: dict[str, set[str]] = {}
    for row in rows:
        if row.column.headline and not row.column.key.neutral:
            of_task.setdefault(row.column.key.task, set()).add(row.kind)
    better = sum("better" in kinds and not kinds & {"worse", "not better"} for kinds in of_task.values())
    worse = list(dict.fromkeys(called(row) for row in rows if row.kind == "worse"))
    denied = [f"{called(row)} ({row.outcome.partition(': ')[2]})" for row in rows if row.kind == "not better"]
    tasks = f"{len(of_task)} task" + "s" * (len(of_task) != 1)
    said = []
    if better:
        said.append(f"better than {base} on {better} of {tasks}")
    if worse:
        said.append(f"worse {'' if said else f'than {base} '}on {_join(worse)}")
    if denied:
        said.append(f"not better {'' if said else f'than {base} '}on {_join(denied)}, by saying less")
    if not said:
        return f"is not separable from {base} on {tasks}." if of_task else f"has no headline verdict against {base}."
    return f"is {', '.join(said)}."


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
