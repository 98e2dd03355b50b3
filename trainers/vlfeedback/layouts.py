"""What a row of a source asks: the prompts in each of the layouts that sources have.

    LAYOUTS["conversations"](row)        # ["What is it?"]: what the human says first

Layouts: "conversations" (LLaVA's and SVIT's: the first human turn, since an instruction of VLFeedback is one prompt;
later turns refer to answers that nobody gave), "columns" (a prompt or question beside a picture), "rows" (either of the
two, what any other table is read as), "choices" (a question and its choices), "actions" (a question and possible
actions) and "m3it" (instruction and inputs).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from support.image_marks import MARK

Row = Mapping[str, Any]

PROMPT_COLUMNS: Final = ("prompt", "question", "instruction", "query", "questions", "question_prompt")
CONVERSATION_COLUMNS: Final = ("conversations", "conversatons", "messages")


def find_cell(row: Row, names: Sequence[str]) -> Any:
    """The cell of the first of the columns that is there and not empty, in any case of letters; None where none is."""
    for wanted in names:
        if row.get(wanted) is not None:
            return row[wanted]
    lower = {name.strip().lower(): name for name in row}
    return next((row[lower[wanted]] for wanted in names if wanted in lower and row[lower[wanted]] is not None), None)


def texts_in(cell: Any) -> list[str]:
    """A cell's text, or the first of its list."""
    if isinstance(cell, list):
        return [text for text in cell[:1] if isinstance(text, str)]
    return [cell] if isinstance(cell, str) else []


_IMAGE_TOKENS: Final = re.compile(rf"[ \t]*(?:{MARK.pattern})[ \t]*\n?", re.IGNORECASE)


def clean_prompt(text: str) -> str:
    """A prompt without the tokens that stand for its image."""
    return _IMAGE_TOKENS.sub("", text).strip()


def _read_conversation(row: Row) -> list[str]:
    """The first human turn; of SVIT's rows, which hold several conversations, that of each."""
    cell = find_cell(row, CONVERSATION_COLUMNS)
    turns = cell if isinstance(cell, list) else []
    if turns and all(isinstance(talk, Mapping) and not {"from", "role"} & talk.keys() for talk in turns):
        return [asked for talk in turns for asked in _read_first_turn(talk.get("content"))]
    return _read_first_turn(turns)


def _read_first_turn(turns: Any) -> list[str]:
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in ("human", "user"):
            said = turn.get("value", turn.get("content"))
            if isinstance(said, list):
                said = "\n".join(str(part["text"]) for part in said if isinstance(part, Mapping) and part.get("text"))
            return texts_in(said)
    return []


def _read_columns(row: Row) -> list[str]:
    """Prompt, question or instruction; with inputs where an instruction has them."""
    name = next((name for name in PROMPT_COLUMNS if find_cell(row, (name,)) not in (None, "", [])), "")
    asked = texts_in(find_cell(row, (name,)))
    inputs = texts_in(find_cell(row, ("inputs", "input"))) if name == "instruction" else []
    return [f"{text}\n{inputs[0]}" if inputs and inputs[0].strip() else text for text in asked]


def _read_rows(row: Row) -> list[str]:
    return _read_conversation(row) if find_cell(row, CONVERSATION_COLUMNS) is not None else _read_columns(row)


_LETTER: Final = re.compile(r"^\s*[A-Da-d]\s*:")


def _read_choices(row: Row) -> list[str]:
    """The question, and a line for each choice."""
    texts = {letter: find_cell(row, (f"choice {letter}",)) for letter in "abcd"}
    lines = [
        f"{letter.upper()}: {_LETTER.sub('', text).strip()}" for letter, text in texts.items() if isinstance(text, str)
    ]
    return ["\n".join([asked.strip(), *lines]) for asked in _read_columns(row)]


def _read_actions(row: Row) -> list[str]:
    """The question and the actions to choose from, or the prompt that the row has in full."""
    actions = find_cell(row, ("actions",))
    if not isinstance(actions, list):
        return _read_columns({**row, "prompt": find_cell(row, ("question_prompt", "prompt", "question"))})
    lines = [f"({chr(ord('A') + index)}) {text}" for index, text in enumerate(actions)]
    return ["\n".join([asked.strip(), "Which action comes next?", *lines]) for asked in _read_columns(row)]


def _read_m3it(row: Row) -> list[str]:
    """The instruction, and under it the inputs or the question."""
    inputs = find_cell(row, ("inputs", "input", "question"))
    return _read_columns({**row, "prompt": None, "inputs": inputs, "question": None})


LAYOUTS: Final[Mapping[str, Callable[[Row], list[str]]]] = {
    "conversations": _read_conversation,
    "columns": _read_columns,
    "rows": _read_rows,
    "choices": _read_choices,
    "actions": _read_actions,
    "m3it": _read_m3it,
}
