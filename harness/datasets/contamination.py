"""Training data held against the benchmarks it will be scored on.

leaks = leaks_of(read_rows(Path("VLFeedback")), registry().expand(["pope", "chair"]), cache=Path("hashes.sqlite"))
leaks.summary()        # {"pope": 212, "chair": 212}: rows that show one of its images
"""

from collections.abc import Iterable, Mapping, Sequence
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
    total: int = 0,
) -> Leaks:
    """Hold rows or pairs against the documents of tasks.

    `data` names local data by task, `cache` keeps image hashes over runs, `total` is the number of rows if it is known.
    """
    from harness.evaluation.generate import load_tasks

    loaded = load_tasks(tasks, data=data, partial_data=partial_data)
    benchmarks = [benchmark_of(task.name, loaded[task.name]) for task in tasks]
    with HashCache(cache) as hashes:
        return find_leaks(
            rows, benchmarks, cache=hashes, distance=DISTANCE if distance is None else distance, total=total
        )
