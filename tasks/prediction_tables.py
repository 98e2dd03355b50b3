"""Tables of questions with a column `prediction`, as VLMEvalKit and what is built on it write their answers.

answers_in_table(path, {"index": "number", "answer": "one of A B C D", "prediction": "any"}, key="index")
"""

from collections.abc import Mapping
from pathlib import Path

from support.errors import AnswerFileError
from tasks.answer import FailedAnswer
from tasks.answer_files import Answered, OfficialAnswers, answer_in, check_any, keep_once, read_fields, read_rows


def answers_in_table(path: Path, kinds: Mapping[str, str], *, key: str) -> OfficialAnswers:
    """A row a question with all that `process_results` needs, told apart by `key`; a row without a prediction is wrong.

    The picture of a row is named by its key. Raises AnswerFileError.
    """
    if path.is_dir():
        raise AnswerFileError(f"{path}: must be a file of answers")
    rows = read_fields(read_rows(path), path, {**kinds, "prediction": "any"})
    given = [answer_in(row["prediction"]) for row in rows]
    check_any(given, path)
    kept, warnings = keep_once([row[key] for row in rows], given, path)
    answered = [
        Answered(
            id=str(rows[place][key]), doc={**rows[place], "image": str(rows[place][key])}, answer=str(given[place])
        )
        for place in kept
    ]
    without = sum(isinstance(given[place], FailedAnswer) for place in kept)
    warnings += [f"{without} of {len(kept)} rows have no prediction and count as wrong"] if without else []
    return OfficialAnswers(answered=answered, warnings=warnings)
