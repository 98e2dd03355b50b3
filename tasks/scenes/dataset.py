"""The documents of the scenes tasks, in the form that lm-eval takes."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any


def as_dataset(rows: list[dict[str, Any]]) -> Mapping[str, Sequence[Any]]:
    """The test split: a `datasets.Dataset` for lm-eval, which has imported it; else, as for a gate, the rows."""
    if sys.modules.get("datasets") is None:
        return {"test": rows}
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
