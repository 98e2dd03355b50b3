"""How long the whole of VLFeedback takes from the public file to pairs and statistics: 82,400 rows, 329,600 answers,
about 430 MB."""

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.bench.usage import Usage, usage_of
from trainers.config.data import ASPECTS
from trainers.data.published import PUBLISHED_MODELS, PUBLISHED_RATINGS

ROWS = 82_400

WORK = """
import sys
from pathlib import Path
from trainers.data.pair_formats import write_pairs
from trainers.data.pair_rules import PairCounts, find_rule, pair_up
from trainers.data.vlfeedback_format import read_rows
from trainers.data.statistics import Statistics
from trainers.data.statistics_tables import tables_of

data, out = Path(sys.argv[1]), Path(sys.argv[2])
counts, statistics = PairCounts(), Statistics()
def rows():
    for row in read_rows(data):
        statistics.add(row)
        yield row
written = write_pairs(pair_up(rows(), find_rule("authors"), counts), out)
assert written == counts.pairs == statistics.pairs["authors"].pairs > 0
print(counts.rows, statistics.rows, len(tables_of(statistics)))
"""


def public_file(path: Path, rows: int) -> None:
    """Rows as long as VLFeedback's, rated as its answers are; one rating in a hundred is no number."""
    rng = random.Random(0)
    words = [
        "the",
        "image",
        "shows",
        "a",
        "large",
        "red",
        "person",
        "standing",
        "near",
        "two",
        "wooden",
        "tables",
        "under",
        "clear",
        "sky",
    ]
    texts = [" ".join(rng.choices(words, k=rng.randint(20, 180))) for _ in range(500)]
    why = [" ".join(rng.choices(words, k=rng.randint(15, 45))) for _ in range(500)]
    notes = {
        aspect: [
            {"Rating": rating, "Rationale": text}
            for text in why
            for rating in rng.choices("12345", PUBLISHED_RATINGS[aspect])
        ]
        for aspect in ASPECTS
    }
    for found in notes.values():
        found.append({"Rating": "N/A", "Rationale": "no image was given"})
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            models = [model.name for model in rng.sample(PUBLISHED_MODELS, 4)]
            completions = [
                {
                    "annotations": {
                        aspect: found[-1] if rng.random() < 0.01 else rng.choice(found)
                        for aspect, found in notes.items()
                    },
                    "model": model,
                    "response": f"{rng.choice(texts)} {index}",
                }
                for model in models
            ]
            row = {
                "id": str(index % 51_000),
                "prompt": f"{texts[index % 500][:120]}?",
                "models": models,
                "completions": completions,
            }
            file.write(json.dumps({**row, "img_path": f"merged_images/{index % 51_000}.jpg"}) + "\n")


def measured(data: Path) -> Usage:
    """Of a fresh process that makes pairs and statistics of the file."""
    return usage_of([sys.executable, "-c", WORK, data, data.with_suffix(".pairs.parquet")])


def test_bench_pairs_and_statistics(benchmark: Any, figures: dict[str, float], tmp_path: Path) -> None:
    whole, quarter = tmp_path / "rows.jsonl", tmp_path / "quarter.jsonl"
    public_file(whole, ROWS)
    public_file(quarter, ROWS // 4)
    of_quarter = measured(quarter)
    of_whole = benchmark.pedantic(measured, args=(whole,), rounds=1)
    figures["pairs.seconds"] = of_whole.seconds
    figures["pairs.cpu_seconds"] = of_whole.cpu_seconds
    figures["pairs.peak_mb"] = of_whole.peak_mb
    # In CPU time: what else the machine does must not show as growth.
    figures["pairs.linear"] = of_whole.cpu_seconds / ROWS / (of_quarter.cpu_seconds / (ROWS // 4))
