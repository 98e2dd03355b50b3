"""Training data held against the benchmarks it will be scored on.

leaks = leaks_of(read_rows(Path("VLFeedback")), registry().expand(["pope", "chair"]),
cache=Path("runs/fingerprints.sqlite"))
leaks.summary()        # {"pope": 212, "chair": 212}: rows that show one of its pictures
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tasks.registry import TaskSpec
from trainers.data.contamination import Leaks, benchmark_of, find_leaks
from trainers.data.image_hashes import DISTANCE, HashCache
from trainers.data.rows import Preference, Row


def leaks_of(
    rows: Iterable[Row | Preference],
    tasks: Sequence[TaskSpec],
    *,
    data: Mapping[str, str] | None = None,
    partial_data: bool = False,
    cache: Path | None = None,
    distance: int | None = None,
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Leaks:
    """Hold rows or pairs against the documents of tasks; `data` names local data by task, `cache` keeps fingerprints
    over runs."""
    from harness.evaluation.generate import load_tasks

    loaded = load_tasks(tasks, data=data, partial_data=partial_data)[0]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
    with HashCache(cache) as prints:
        return find_leaks(
            rows,
            [benchmark_of(task.name, loaded[task.name]) for task in tasks],
            prints=prints,
            distance=DISTANCE if distance is None else distance,
            done=lambda count: report("look for leaks", count, 0),
        )


def is_rows(source: Path) -> bool:
    """Whether these data are rated answers; else they may be pairs."""
    from trainers.data.vlfeedback_format import holds_rows

    return holds_rows(source)
