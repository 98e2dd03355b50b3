"""The YAML file of a task from a table of pictures, questions and answers: `harness tasks new`.

    text = yaml_of(NewTask(name="parts", kind="open", table=Path("parts.csv")), Path("mine"))

Columns are found by their names (`NAMES`), in any case; nothing else of a table is asked. The file says all that the
task is, so that it can be changed by hand; what it names is in `tasks.benchmarks.own_table`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from support.errors import DataError, UnknownName, UsageError
from support.records import SEPARATED, TEXT, columns, read, suffix
from tasks.benchmarks.own_table import OPTIONS, name_category
from tasks.columns import is_nothing
from tasks.outside import is_dotted
from tasks.table_pictures import FILE_COLUMNS

OWN: Final = "tasks.benchmarks.own_table"
KINDS: Final = ("yes-no", "multiple-choice", "open", "caption")
RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "open": ("exact", "contains", "regex", "vqa-accuracy", "judge"),
    "caption": ("contains", "judge"),
}
"""Kind -> how its answers may be scored, the usual way first; the others have one."""
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": FILE_COLUMNS,
    "question": ("question", "query", "prompt", "instruction", "text"),
    "answer": ("answer", "answers", "label", "gt_answer", "ground_truth", "reference", "references", "target", "truth"),
    "choices": ("choices", "options"),
    "category": ("category", "type", "subject", "l2-category"),
    "id": ("id", "index", "question_id", "qid"),
    "hint": ("hint", "context"),
    "rubric": ("rubric",),
}
"""What each column may be called; the first that a table has is it."""
MOST_CATEGORIES: Final = 40
"""With more, none has a metric."""
RUBRIC: Final = "10: says what the reference says, and nothing that it contradicts. 0: says something else, or nothing."
LETTERS_ONLY: Final = "Answer with the option's letter from the given choices directly."
DESCRIBE: Final = "Describe this image in detail."


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """What a user says of a task."""

    name: str
    kind: str
    table: Path
    rule: str | None = None
    rubric: str | None = None
    """By which a judge grades."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "_").isidentifier() or is_dotted(self.name):
            raise UsageError(f"name {self.name!r}: must be letters, digits and _, and begin with a letter")
        if self.kind not in KINDS:
            raise UnknownName("type", self.kind, KINDS)
        known = RULES.get(self.kind, ())
        if self.rule is not None and not known:
            raise UsageError(f"--rule {self.rule}: would not act: answers of {self.kind} are scored in one way")
        if self.rule is not None and self.rule not in known:
            raise UnknownName(f"rule of {self.kind}", self.rule, known)
        if self.rubric is not None and self.how != "judge":
            raise UsageError("--rubric: would not act without --rule judge")

    @property
    def how(self) -> str:
        """The rule by which it is scored."""
        return self.rule or RULES.get(self.kind, (self.kind,))[0]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What was found in a table."""

    names: Mapping[str, str]
    """Our column -> what the table calls it."""
    options: Sequence[str]
    categories: Sequence[str]


def yaml_of(task: NewTask, below: Path) -> str:
    """The YAML file of a task, for the folder `below`; DataError for a table that can't be its data."""
    table = _look(task)
    shown = _relative(task.table, below)
    metrics = _metrics_of(task, table)
    content: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": _Function("tasks.documents.load"),
        "dataset_kwargs": {"task": task.name},
        "test_split": "test",
        "process_docs": _Function(f"{OWN}.{'docs_with_options' if task.kind == 'multiple-choice' else 'docs'}"),
        "output_type": "generate_until",
        "doc_to_image": _Function("tasks.documents.images"),
        "doc_to_text": _text_of(task, table),
        "doc_to_target": "answer",
        "generation_kwargs": {"do_sample": False, "max_gen_toks": _LONGEST[task.kind], "until": []},
        "process_results": _Function(f"{OWN}.{_PROCESS[task.kind, task.how]}"),
        "metric_list": [
            {"metric": name, "aggregation": _Function(f"{OWN}.{code}"), "higher_is_better": higher}
            for name, (code, _, higher) in metrics.items()
        ],
        "metadata": _metadata_of(task, table, shown, {name: unit for name, (_, unit, _) in metrics.items()}),
    }
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


_PROCESS: Final = {
    ("yes-no", "yes-no"): "process_yes_no",
    ("multiple-choice", "multiple-choice"): "process_letter",
    ("open", "exact"): "process_exact",
    ("open", "contains"): "process_contains",
    ("open", "regex"): "process_regex",
    ("open", "vqa-accuracy"): "process_vqa",
    ("open", "judge"): "process_grade",
    ("caption", "contains"): "process_mentions",
    ("caption", "judge"): "process_grade",
}
"""Kind and rule -> the function that scores."""
_LONGEST: Final = {"yes-no": 64, "multiple-choice": 128, "open": 512, "caption": 512}
"""Of an answer, in tokens."""
_ANSWERS: Final = {
    "yes-no": "yes_no",
    "multiple-choice": f"{OWN}.read_letter",
    "exact": "text or texts",
    "contains": "text or texts",
    "regex": f"{OWN}.read_pattern",
    "vqa-accuracy": f"{OWN}.read_people",
    "judge": "text or nothing",
}
"""Rule -> what the column with the true answers holds."""


def _look(task: NewTask) -> _Table:
    """Which columns a table has, and of what it is; DataError where it lacks one."""
    path = task.table
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not suffix(path, (*TEXT, *SEPARATED, ".parquet")):
        raise DataError(f"{path}: must be a table: .csv, .tsv, .jsonl, .json or .parquet")
    there = columns(path)
    if not there:
        raise DataError(f"{path}: has no rows")
    lower = {name.strip().lower(): name for name in there}
    names = {ours: lower[known] for ours, known in _first_known(lower)}
    if names.get("image") not in FILE_COLUMNS:
        names.pop("image", None)
    options = [letter for letter in OPTIONS if letter in there]
    _check(task, path, names, options, there)
    categories = dict[str, None]()
    for row in read(path, strict=True):
        cell = row.get(names.get("category", ""))
        categories |= {} if is_nothing(cell) else {str(cell): None}
    return _Table(names=names, options=options, categories=list(categories))


def _first_known(lower: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [(ours, next((one for one in known if one in lower), "")) for ours, known in NAMES.items()]
    return [(ours, known) for ours, known in found if known]


def _check(task: NewTask, path: Path, names: Mapping[str, str], options: Sequence[str], there: Sequence[str]) -> None:
    needed = ["image", "answer"] if task.kind == "caption" else ["image", "question", "answer"]
    needed = [name for name in needed if name != "answer" or task.how != "judge"]
    missing = [f"{name} (called {', '.join(NAMES[name][:4])})" for name in needed if name not in names]
    if task.kind == "multiple-choice" and "choices" not in names and not {"A", "B"} <= {*options}:
        missing.append("options (columns A, B, ..., or a list called choices, options)")
    if missing:
        raise DataError(f"{path}: has no column for {'; '.join(missing)}; it has {', '.join(there)}")


def _metrics_of(task: NewTask, table: _Table) -> dict[str, tuple[str, str, bool]]:
    """Metric -> its code, its unit, and whether higher is better; the first is the headline."""
    if task.how == "judge":
        found = {"grade": ("grade", "0-10", True)}
    elif task.kind == "yes-no":
        found = {name: (name, "%", True) for name in ("accuracy", "f1", "precision", "recall")}
        found |= {"yes_rate": ("yes_rate", "%", False)}
    else:
        found = {"mentioned" if task.kind == "caption" else "accuracy": ("score", "%", True)}
    called = list(dict.fromkeys(map(name_category, table.categories)))
    if 1 < len(called) <= MOST_CATEGORIES:
        found |= {f"category_{name}": (f"category_{name}", "%", True) for name in called}
    return found if task.how == "judge" else found | {"answer_length": ("answer_length", "words", False)}


def _text_of(task: NewTask, table: _Table) -> str:
    """The question, in Jinja over the table's columns."""
    hint = "{% if hint %}{{hint}}\n{% endif %}" if "hint" in table.names and task.kind == "multiple-choice" else ""
    if task.kind == "multiple-choice":
        letters = "{% for choice in choices %}\n{{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[loop.index0]}}. {{choice}}{% endfor %}"
        return f"<image>{hint}{{{{question}}}}{letters}\n{LETTERS_ONLY}"
    if task.kind == "caption":
        return f"<image>{{{{question or '{DESCRIBE}'}}}}"
    return "<image>{{question}}"


def _columns_of(task: NewTask, table: _Table) -> dict[str, str]:
    """Our columns -> what they hold (see `tasks.columns`)."""
    found = {"id": "id"} if "id" in table.names else {}
    found |= {"image": "any", "question": "question or nothing" if task.kind == "caption" else "question"}
    if task.kind == "multiple-choice":
        letters = dict.fromkeys(table.options, "text or nothing") if "choices" not in table.names else {}
        found |= letters or {"choices": "texts"}
        found |= {"hint": "question or nothing"} if "hint" in table.names else {}
    found["answer"] = _ANSWERS[task.how]
    return found | {"category": "text or nothing"} | ({"rubric": "text"} if task.how == "judge" else {})


def _metadata_of(task: NewTask, table: _Table, shown: str, units: Mapping[str, str]) -> dict[str, Any]:
    kinds = _columns_of(task, table)
    renamed = {ours: theirs for ours, theirs in table.names.items() if ours in kinds and ours not in (theirs, "image")}
    key = ["id"] if "id" in kinds else [name for name in kinds if name not in ("answer", "category", "rubric", "hint")]
    judged = task.how == "judge"
    return {
        "version": "1",
        "description": f"{_WORDS[task.kind]} of {task.table.name}, scored by {_SCORED_BY[task.how]}.",
        "headline": next(iter(units)),
        "units": dict(units),
        "judged": judged,
        **({"judge": f"{OWN}.judge", "reads_reply": f"{OWN}.read_grade"} if judged else {}),
        "official_judge": None,
        "cluster": "image",
        "data": task.table.name,
        "table": shown,
        "revision": "1",
        "rows": None,
        "columns": kinds,
        **({"other_names": renamed} if renamed else {}),
        **({"constants": {"rubric": task.rubric or RUBRIC}} if judged else {}),
        "key": key,
        **({"categories": ["category"]} if len(table.categories) > 1 else {}),
        **({"next_token": "tasks.early_exit.yes_no"} if task.kind == "yes-no" else {}),
        "answers": None,
        "licence": "not told",
        "citation": "not told",
        "published": [],
    }


_WORDS: Final = {
    "yes-no": "Yes/no questions",
    "multiple-choice": "Multiple-choice questions",
    "open": "Open questions",
    "caption": "Captions of the pictures",
}

_SCORED_BY: Final = {
    "yes-no": "the yes or no in an answer",
    "multiple-choice": "the option that an answer names",
    "exact": "whether an answer is the true one",
    "contains": "the true words in it",
    "regex": "a regular expression",
    "vqa-accuracy": "VQA accuracy",
    "judge": "a judge's grade",
}


def _relative(table: Path, folder: Path) -> str:
    """The table's path as the YAML has it: below its folder where it is there, else whole."""
    whole, folder = table.resolve(), folder.resolve()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)


class _Function(str):
    """A dotted name behind `!function`."""


class _Dumper(yaml.SafeDumper):
    """Writes `!function a.b` for such a name, and texts of several lines with their escapes."""


def _write_function(dumper: yaml.SafeDumper, name: _Function) -> yaml.Node:
    return dumper.represent_scalar("!function", str(name), style="")


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = text.replace(" ", "").replace(".", "").replace("_", "").isalpha() and not _means_other(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _means_other(text: str) -> bool:
    return not isinstance(yaml.safe_load(json.dumps(text)[1:-1] or "''"), str)


_Dumper.add_representer(_Function, _write_function)
_Dumper.add_representer(str, _write_text)
