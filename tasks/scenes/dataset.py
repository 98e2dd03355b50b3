"""The documents of the scenes tasks, in the form that lm-eval takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from support.extras import is_installed


def as_dataset(rows: list[dict[str, Any]]) -> Mapping[str, Sequence[Any]]:
    """The test split: a `datasets.Dataset`; in a light install, which asks no model, the rows themselves."""
    if not is_installed("datasets"):
        return {"test": rows}
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
