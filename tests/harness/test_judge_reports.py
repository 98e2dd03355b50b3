"""Agreement of two raters: reading of ratings, measures, and what is wrong with files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cli.main import run
from harness.evaluation import rater_agreement
from harness.evaluation.rater_agreement import read_ratings
from leaderboards.board.sample import Sample, to_parquet
from support.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def human(tmp_path: Path) -> Path:
    rows = "".join(f"{n},{n % 5 + 1},{'word ' * n}\n" for n in range(40))
    return write(tmp_path / "human.csv", "id,rating,text\n" + rows)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    rows = [
        {"id": str(n), "rating": min(5, n % 5 + 1 + (n % 4 == 0)), "item": str(n // 4), "position": n % 4 + 1}
        for n in range(40)
    ]
    return write(tmp_path / "judge.jsonl", "\n".join(map(json.dumps, rows)))


def test_two_raters_are_held_against_each_other(human: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["judge", "agree", str(human), str(judge)]) == 0
    out = capsys.readouterr().out
    for text in ("40 items rated by both, 0 without a rating", "| quadratic kappa", "| largest disagreements"):
        assert text in out
    for text in ("mean rating by position", "Spearman of rating with length"):
        assert text in out
    assert run(["judge", "agree", str(human), str(judge), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bias"]["value"] == pytest.approx(8 / 40)
    assert found["kappa"]["low"] < found["kappa"]["value"] <= 1


def test_a_new_judge_is_calibrated_in_a_sentence(human: Path, judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["judge", "calibrate", str(human), str(judge), "--json"]) == 0
    sentence = json.loads(capsys.readouterr().out)["judge calibration"]
    assert sentence.startswith("judge against human on 40 ratings: quadratic kappa 0.")


@pytest.mark.parametrize("as_list", (True, False))
def test_vlfeedbacks_public_rows_are_ratings(as_list: bool, tmp_path: Path) -> None:
    notes = [
        {"Helpfulness": {"Rating": "4"}, "Visual Faithfulness": {"Rating": "N/A"}},
        {"Helpfulness": {"Rating": "2"}},
    ]
    rows = [{"model": f"m{n}", "response": "a dog " * (n + 1), "annotations": note} for n, note in enumerate(notes)]
    completions = rows if as_list else {name: [row[name] for row in rows] for name in rows[0]}
    found = read_ratings(write(tmp_path / "v.jsonl", json.dumps({"id": "svit-1", "completions": completions})))
    assert [(rated.id, rated.rating) for rated in found] == [
        ("svit-1/m0/Helpfulness", 4.0),
        ("svit-1/m0/Visual Faithfulness", None),
        ("svit-1/m1/Helpfulness", 2.0),
    ]
    assert [rated.length for rated in found] == [2, 2, 4]


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ("id,rating\n1,2\n1,3\n", "'1' is rated twice; repeats need a column `repeat`"),
        ("name,rating\nx,1\n", "a row lacks id or rating; it has name, rating"),
        ("id,rating\n", "holds no ratings"),
    ),
)
def test_what_is_wrong_with_a_file_is_one_line(
    text: str, complaint: str, tmp_path: Path, human: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(DataError, match=complaint):
        read_ratings(path)
    assert run(["judge", "agree", str(path), str(human)]) == 2
    assert complaint in capsys.readouterr().err


def test_files_with_nothing_in_common_are_an_error(tmp_path: Path, human: Path) -> None:
    with pytest.raises(DataError, match="no id in common"):
        compare(human, write(tmp_path / "o.csv", "id,rating\nx,1\n"))


def test_repeats_say_how_a_judge_agrees_with_itself(tmp_path: Path, human: Path) -> None:
    rows = "id,rating,repeat\n" + "".join(f"{n},{n % 5 + 1 - (n == 3) * r},{r}\n" for n in range(40) for r in range(2))
    found = compare(human, write(tmp_path / "r.csv", rows))
    assert found["habits"]["b"]["repeats"]["same"] == pytest.approx(97.5)


def compare(first: Path, second: Path) -> dict[str, Any]:
    """What `harness judge agree a b --json` prints."""
    text = rater_agreement.report(read_ratings(first), read_ratings(second), ("a", "b"), as_json=True)
    found: dict[str, Any] = json.loads(text)
    return found


def public(id: str, prompt: str, *answers: tuple[str, str, int]) -> str:
    completions = [
        {"model": m, "response": said, "annotations": {"Helpfulness": {"Rating": str(points)}}}
        for m, said, points in answers
    ]
    return json.dumps({"id": id, "prompt": prompt, "completions": completions}) + "\n"


def test_rows_of_one_id_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    rows = [public("1", "Describe.", ("m0", "a dog", 4)), public("2", "Describe.", ("m0", "a sofa", 3))]
    rows.append(public("1", "Describe.", ("m0", "a cat", 2)))
    path = write(tmp_path / "published.jsonl", "".join(rows))
    ids, ratings = zip(*((rated.id, rated.rating) for rated in read_ratings(path)), strict=True)
    assert ([id.partition("#")[0] for id in ids], ratings) == (["1", "2/m0/Helpfulness", "1"], (4, 3, 2))
    assert len(set(ids)) == 3
    backwards = "".join(row.replace('"4"', '"5"') for row in reversed(rows))
    found = compare(path, write(tmp_path / "new.jsonl", backwards))
    assert (found["items"], found["largest"]) == (3, [[ids[0], 4, 5]])
    with pytest.raises(DataError, match="no id in common"):  # the id alone may mean either row
        compare(path, write(tmp_path / "alone.jsonl", rows[0]))


def test_the_same_row_twice_and_the_same_model_twice_are_kept(tmp_path: Path) -> None:
    row = public("1", "Describe.", ("m0", "a dog", 4), ("m0", "a cat", 2))
    found = read_ratings(write(tmp_path / "twice.jsonl", row * 2))
    assert [rated.rating for rated in found] == [4, 2, 4, 2]
    assert len({rated.id for rated in found}) == 4


def test_what_annotate_keeps_has_positions_and_takes_lengths_from_the_other_file(tmp_path: Path) -> None:
    rows, texts = [], "".join(public(f"i{n}", "?", ("a", "word " * 9, 3), ("b", "word", 3)) for n in range(8))
    for n in range(8):
        order = ["a", "b"] if n % 2 else ["b", "a"]
        ratings = {
            member: {"Helpfulness": 4 if order[0] == member else 2, "Visual Faithfulness": None} for member in order
        }
        rows.append(json.dumps({"id": f"i{n}", "order": order, "ratings": ratings, "judge": "x"}))
    mine = read_ratings(write(tmp_path / "mine.jsonl", "\n".join(rows).replace(', "Visual Faithfulness": null', "")))
    assert [(rated.id, rated.item, rated.position, rated.rating) for rated in mine[:2]] == [
        ("i0/b/Helpfulness", "i0", 1, 4),
        ("i0/a/Helpfulness", "i0", 2, 2),
    ]
    other = read_ratings(write(tmp_path / "published.jsonl", texts))
    found = json.loads(rater_agreement.report(other, mine, ("published", "mine"), as_json=True))
    assert (found["items"], found["groups"]) == (16, 8)
    counts = {"effect": 1, "items": 8, "left_out": 0}
    tested = {"means": {"1": 4, "2": 2}, "test": "sign test", "p": pytest.approx(2 / 2**8)}
    assert found["habits"]["mine"]["position"] == tested | counts
    assert found["habits"]["mine"]["verbosity"] == {"spearman": 0, "within": 0}
    text = rater_agreement.report(other, mine, ("published", "mine"))
    assert "intervals over 8 groups of items" in text
    assert "position: sign test" in text
    assert "p 0.00781, effect 1 (8 items)" in text


def test_aspects_of_one_text_are_one_witness(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"{n}{at}", "aspect": aspect, "item": n, "position": at, "rating": at + len(aspect)}
        for n in range(5)
        for at in (1, 2, 3)
        for aspect in ("x", "yy", "zzz")
    ]
    path = write(tmp_path / "a.json", json.dumps(rows))
    assert read_ratings(path)[0].id == "01/x"
    tested = compare(path, path)
    assert (tested["items"], tested["groups"], tested["habits"]["a"]["position"]["items"]) == (45, 5, 5)
    rows[0]["rating"] = None
    write(path, json.dumps(rows))
    tested = compare(path, path)
    assert tested["left_out"] == 1
    assert (tested["habits"]["a"]["position"]["items"], tested["habits"]["a"]["position"]["left_out"]) == (4, 1)


def log(path: Path, *samples: tuple[str, str | None, dict[str, Any]]) -> Path:
    usual: dict[str, Any] = {"run": "r", "task": "t", "prompt": "?", "answer": "a b"}
    rows = [Sample(id=id, image=f"i{id}", reply=reply, records=records, **usual) for id, reply, records in samples]
    path.write_bytes(to_parquet(rows))
    return path


def test_a_sample_log_gives_the_judges_ratings_and_no_default_for_what_it_could_not_read(tmp_path: Path) -> None:
    path = log(
        tmp_path / "x.samples.parquet",
        ("1", "Rating: 4", {"score": {"image": "i", "rating": 4}, "rate": {"image": "i", "rating": 4}}),
        ("2", "hm", {"score": {"image": "i", "rating": 0, "unrated": True}}),
        ("3", None, {"LH": {"image": "i", "cluster": "set", "check": 2}}),
        ("4", "hm", {}),
        ("5", None, {"accuracy": {"image": "i", "correct": 1}}),
    )
    found = read_ratings(path)
    assert [(rated.id, rated.rating) for rated in found] == [("t/1", 4), ("t/2", None), ("t/3", 2), ("t/4", None)]
    assert [rated.group for rated in found] == ["t/i1", "t/i2", "t/set", "t/i4"]
    assert {rated.length for rated in found} == {2}


def test_what_models_and_files_say_is_no_markup(tmp_path: Path) -> None:
    one = read_ratings(write(tmp_path / "a.jsonl", json.dumps({"id": "<b>|x\u202e\n# hi", "rating": 1})))
    two = read_ratings(write(tmp_path / "b.jsonl", json.dumps({"id": "<b>|x\u202e\n# hi", "rating": 5})))
    text = rater_agreement.report(one, two, ("a|b", "*c*"))
    assert "\\<b\\>\\|x\\\\u202e # hi" in text
    assert "a\\|b and \\*c\\*: 1 items rated by both" in text
    assert "\u202e" not in text
    (sentence,) = rater_agreement.calibration(one, two, ("a\nb", "c\udc80")).values()
    assert sentence == "c\\udc80 against a b on 1 ratings: quadratic kappa 0, Spearman —, bias +4"


def test_what_is_not_defined_is_a_dash_and_null(human: Path, tmp_path: Path) -> None:
    alike = read_ratings(write(tmp_path / "o.csv", "id,rating\n" + "".join(f"{n},3\n" for n in range(40))))
    assert "—" in rater_agreement.report(alike, alike, ("a", "b"))
    undefined = dict.fromkeys(("value", "low", "high"))
    assert compare(tmp_path / "o.csv", tmp_path / "o.csv")["kappa"] == undefined


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
NOTES = st.one_of(
    JSON,
    st.dictionaries(st.sampled_from(["Helpfulness", "x"]), st.one_of(JSON, st.fixed_dictionaries({"Rating": JSON}))),
)
COMPLETION = st.one_of(JSON, st.fixed_dictionaries({"model": JSON, "response": JSON, "annotations": NOTES}))
ROW = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"id": JSON, "rating": JSON},
        optional=dict.fromkeys(("aspect", "item", "position", "text", "length", "repeat"), JSON),
    ),
    st.fixed_dictionaries(
        {"completions": st.one_of(JSON, st.lists(COMPLETION, max_size=3))}, optional={"id": JSON, "prompt": JSON}
    ),
    st.fixed_dictionaries(
        {"ratings": st.one_of(JSON, st.dictionaries(st.text(max_size=2), JSON)), "order": st.lists(st.text(max_size=2))}
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.lists(ROW, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows))), st.text()),
    st.sampled_from(["jsonl", "json", "csv"]),
)
def test_any_file_is_ratings_or_one_line_of_complaint(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_ratings(path)
    except DataError as error:
        complaint = str(error)
    else:
        complaint = ""
        assert found == read_ratings(path)
        if any(rated.rating is not None for rated in found):
            assert rater_agreement.report(found, found, ("a", "b"))
            json.loads(rater_agreement.report(found, found, ("a", "b"), as_json=True))
    assert "\n" not in complaint


@pytest.mark.parametrize("name", ("none.csv", "folder", "broken.parquet"))
def test_what_is_no_file_of_ratings_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=name):
        read_ratings(tmp_path / name)
