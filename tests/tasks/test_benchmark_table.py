"""docs/benchmarks.md lists every benchmark as the registry has it.

python -m tests.tasks.test_benchmark_table     # writes the list anew
"""

import re
from pathlib import Path

from support.markdown import cell, table
from tasks.registry import registry

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
PLACE = re.compile(r"(?<=<!-- tasks, from their files -->\n\n).*?(?=\n\n)", re.DOTALL)


def list_tasks() -> str:
    """One row a task that is not embedded: headline metric, unit, direction, size, judge, licence, published scores."""
    rows = []
    for spec in registry().tasks.values():
        if spec.data == "embedded":
            continue
        metric = spec.metrics[spec.headline]
        arrow = "↑" if metric.higher_is_better else "↓"
        size = "—" if spec.rows is None else f"{spec.rows:,}"
        judge = spec.official_judge or ("yes" if spec.judged else "no")
        row = [
            f"`{spec.name}`",
            f"`{spec.headline}` {cell(metric.unit)} {arrow}",
            size,
            cell(judge),
            cell(spec.licence),
        ]
        rows.append([*row, str(len(spec.published))])
    heads = ["task", "headline metric", "questions", "judge", "licence of the data", "published scores"]
    return table(heads, rows, [False, False, True, False, False, True])


def test_the_list_of_benchmarks_is_the_registrys() -> None:
    found = PLACE.search(DOCS.read_text(encoding="utf-8"))
    assert found
    assert found[0] == list_tasks()


if __name__ == "__main__":
    DOCS.write_text(PLACE.sub(lambda _: list_tasks(), DOCS.read_text(encoding="utf-8"), count=1), encoding="utf-8")
