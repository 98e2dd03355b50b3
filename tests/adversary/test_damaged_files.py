"""Files that a user names, damaged in any way: read, or one line and exit code 1 or 2; never a traceback."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.cli.main import run

ROW = {"id": "1", "image": "a.png", "prompt": "What?", "chosen": "A dog is here.", "rejected": "No cat."}
RECIPE = Path(__file__).parents[2] / "trainers/recipes/silkie.toml"
DEEP = b"[" * 100_000 + b"]" * 100_000


def damage(whole: bytes) -> dict[str, bytes]:
    """What may become of any file."""
    return {
        "whole": whole,
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 8,
        "UTF-16": whole.decode("utf-8", "replace").encode("utf-16"),
        "a mark of byte order": b"\xef\xbb\xbf" + whole,
        "no UTF-8": whole.replace(b"a", b"\xff", 1),
        "NUL": whole[:10] + b"\0" + whole[10:],
        "CRLF": whole.replace(b"\n", b"\r\n"),
        "deep": DEEP,
        "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a list": b"[]",
        "null": b"null",
        "NaN": b"NaN",
        "a long number": b"1" * 100_000,
        "a long number in a row": b'{"id": ' + b"9" * 100_000 + b"}\n",
        "half a character": b'{"id": "1", "prompt": "\\ud800", "chosen": "\\udc00", "rejected": "b"}\n',
        "a huge field": whole + b'"' + b"x" * 300_000 + b"\n",
        "a wrong end": whole[:-4] + b"XXXX",
        "a wrong length": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "TOML, deep": b"beta = " + DEEP,
        "TOML, a long number": b"beta = " + b"9" * 100_000,
        "TOML, no numbers": b"beta = inf\nlearning_rate = nan",
        "TOML, a date": b"beta = 2020-01-01\nname = 1979-05-27T07:32:00Z",
        "TOML, twice": b"beta = 1\nbeta = 2",
        "TOML, a long line": b'name = "' + b"x" * 10**6 + b'"',
    }


def make(name: str, folder: Path) -> bytes:
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([ROW]), folder / "whole.parquet")
        return (folder / "whole.parquet").read_bytes()
    if name.endswith(".toml"):
        return RECIPE.read_bytes()
    if name.endswith(".csv"):
        return b"id,image,prompt,chosen,rejected\n1,a.png,What?,A dog,No\n"
    return json.dumps([ROW] if name.endswith(".json") else ROW).encode() + b"\n"


EVAL = ("eval", "--model", "scenes-base", "--tasks", "scenes_pope", "--dry-run")
READERS: dict[str, tuple[str, ...]] = {
    "rows.jsonl": ("vlfeedback", "check"),
    "rows.json": ("vlfeedback", "stats"),
    "rows.csv": ("vlfeedback", "check"),
    "rows.parquet": ("vlfeedback", "check"),
    "recipe.toml": ("train-then-eval", "--dry-run"),
    "options.toml": (*EVAL, "--config"),
    "calibration.json": (*EVAL[:-1], "--limit", "1", "--judge-calibration"),
    "answers.json": ("score", "mmhal"),
    "answers.jsonl": ("score", "chair"),
    "calls.jsonl": ("judge", "import", "--ledger", "ledger.sqlite"),
    "store.sqlite": ("store", "check"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    for kind, data in damage(make(name, tmp_path)).items():
        if name == "calibration.json" and kind == "whole":
            continue
        Path(name).write_bytes(data)
        code = run([*READERS[name], name])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("harness: ")]
        assert code in (0, 1, 2, 4), (kind, code)
        assert not any("a mistake in harness" in line for line in lines), (kind, lines)
        assert len(lines) == (code in (1, 2)), (kind, code, lines)


ADDRESSES = (
    *("http://", "http://[::1", "http://h:99999", "http://h:-1", "http://a b/", "ftp://x", "//x", "http:///v1", " "),
    *(
        "http://é.☃",
        "http://x\u202e",
        "http://h:abc",
        "x" * 5000,
        "http://%zz",
        "http://u:p@[::1",
        "http://" + "a" * 300,
    ),
)
NUMBERS = {
    "--limit": ("inf", "nan", "1e400", "0", "9" * 400, "9" * 25, "-5", "1.5"),
    "--max-failed": ("inf", "nan", "1e400", "x", "-1"),
    "--seed": ("9" * 400, "-1"),
    "--dtype": ("float99", "int8"),
    "--batch-size": ("inf", "0", "-1"),
    "--judge-budget": ("nan", "-1"),
    "--judge-repeats": ("9" * 400, "0"),
}


def test_an_option_of_any_value_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    begin = ("eval", "--tasks", "scenes_pope", "--dry-run")
    given = [("--model", "openai:x", "--model-url", address) for address in ADDRESSES]
    given += [("--model", "scenes-base", option, value) for option, values in NUMBERS.items() for value in values]
    for arguments in given:
        code = run([*begin, *arguments])
        lines = capsys.readouterr().err.splitlines()
        assert (code, len(lines)) == (2, 1) or code == 0, (arguments, code, lines)
        assert not any("a mistake in harness" in line for line in lines), arguments
