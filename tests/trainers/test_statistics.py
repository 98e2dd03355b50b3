"""What the statistics say of rated data, against counts made by hand and by scipy."""

import json
import math
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from trainers.config.data import ASPECTS
from trainers.data import published, statistics, statistics_report
from trainers.data.pair_rules import RULES, PairCounts, pair_up
from trainers.data.published import published_model
from trainers.data.rows import Completion, Row
from trainers.data.statistics import Statistics, gather, spearman
from trainers.data.statistics_report import draw, length_groups, report
from trainers.data.statistics_tables import tables_of

HELP, ETHICS, FAITH = ASPECTS


def some_rows(count: int, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        models = rng.choices(["gpt-4v", "llava-v1.5-7b", "Fuyu-8B", "mine"], k=rng.choice([2, 3, 4, 4, 4]))
        answers = []
        for model in models:
            rated = [aspect for aspect in ASPECTS if rng.random() > 0.05]
            ratings = {aspect: rng.choice(["1", "2", "3", "4", "5", "5", "4.5", "N/A"]) for aspect in rated}
            answers.append(Completion(model=model, response="x" * rng.randint(0, 90), ratings=ratings))
        source = rng.choice(["SVIT", "LLaVA", "RTVLM"])
        rows.append(row(*answers, index=index, prompt="p" * (index % 50), source=source))
    return rows


def row(*answers: Completion, index: int = 0, prompt: str = "p", source: str = "") -> Row:
    return Row(index=index, id=str(index), prompt=prompt, completions=answers, source=source)


def test_ratings_are_counted_by_aspect_and_model() -> None:
    rows = some_rows(300)
    found = gather(rows)
    for aspect in ASPECTS:
        expected = Counter(answer.ratings.get(aspect, "not rated") for row in rows for answer in row.completions)
        expected["not a number"] = expected.pop("N/A")
        assert found.distribution(aspect) == expected
        own = [answer for row in rows for answer in row.completions if answer.model == "mine"]
        mine = [answer.ratings[aspect] for answer in own if answer.ratings.get(aspect, "N/A") != "N/A"]
        mean = found.to_json()["models"]["mine"]["means"][aspect]
        assert mean == pytest.approx(sum(map(float, mine)) / len(mine))
    red = Counter(a.ratings.get(ETHICS, "not rated") for row in rows if row.source == "RTVLM" for a in row.completions)
    assert found.distribution(ETHICS, red_team=True)["3"] == red["3"] > 0
    both = [found.distribution(ETHICS, red_team=red_team) for red_team in (True, False)]
    assert both[0] + both[1] == found.distribution(ETHICS)
    assert found.not_numbers == {"N/A": sum(found.distribution(aspect)["not a number"] for aspect in ASPECTS)}


def test_pairs_wins_and_lengths_agree_with_the_pairs_themselves() -> None:
    rows = some_rows(300)
    found = gather(rows)
    for name, counted in found.pairs.items():
        counts = PairCounts()
        assert len(list(pair_up(rows, RULES[name], counts))) == counted.pairs
        assert counts == counted
    made = list(pair_up(rows, RULES["authors"], PairCounts()))
    matches = [(pair.chosen_model, pair.rejected_model) for pair in made]
    wins = Counter(models for models in matches if models[0] != models[1])
    assert found.wins == wins
    rate = found.win_rate("gpt-4v", "mine")
    assert rate == wins["gpt-4v", "mine"] / (wins["gpt-4v", "mine"] + wins["mine", "gpt-4v"])
    assert rate == pytest.approx(1 - (found.win_rate("mine", "gpt-4v") or 0))
    assert sum(found.ties.values()) < found.pairs["authors"].ties  # ties of a model with itself are no match
    bias = found.length_bias()
    assert bias.pairs == len(made)
    assert bias.longer == sum(len(pair.chosen) > len(pair.rejected) for pair in made) / len(made)
    assert bias.equal == sum(len(pair.chosen) == len(pair.rejected) for pair in made) / len(made)
    logs = [math.log(len(pair.chosen) / len(pair.rejected)) for pair in made if pair.chosen and pair.rejected]
    assert bias.ratio == pytest.approx(math.exp(sum(logs) / len(logs)))


def test_the_rank_correlation_is_scipys() -> None:
    from scipy.stats import spearmanr

    rng = random.Random(3)
    points = [(length := rng.randint(0, 30), round(length / 30 + rng.random(), 1)) for _ in range(500)]
    expected = spearmanr([x for x, _ in points], [y for _, y in points]).statistic
    assert spearman(Counter(points)) == pytest.approx(expected)
    assert spearman(Counter({(1, 2.0): 3, (2, 2.0): 1})) is None
    assert spearman({}) is None


def test_shards_merged_are_the_whole() -> None:
    rows = some_rows(120)
    whole, parts = gather(rows), gather(rows[:50])
    parts.merge(gather(rows[50:]))
    assert parts.log_ratio == pytest.approx(whole.log_ratio)
    parts.log_ratio = whole.log_ratio
    assert parts == whole
    with pytest.raises(ValueError, match="different rules"):
        parts.merge(Statistics(rules=(RULES["authors"],)))


@pytest.mark.parametrize(
    ("published", "names"),
    (
        ("LLaVA-1.5-7B", "LLaVA-1.5-7B llava-v1.5-7b llava-hf/llava-1.5-7b-hf"),
        ("LLaVA-1.5-13B", "llava_v1.5_13b"),
        ("GPT-4V", "GPT4V"),
        ("Qwen-VL-Chat", "qwen-vl-chat@0.7"),
        ("InstructBLIP-13B", "InstructBLIP-Vicuna-13B"),
        ("LLaVA-RLHF-13b-336", "llava-rlhf-13b-v1.5-336"),
        (None, "llava-1.6-7b scenes-base@1"),
    ),
)
def test_a_model_is_found_in_the_published_table_however_it_is_written(published: str | None, names: str) -> None:
    assert {(found := published_model(name)) and found.name for name in names.split()} == {published}


def test_published_figures_hang_together() -> None:
    for model in published.PUBLISHED_MODELS:
        assert sum(model.means().values()) / 3 == pytest.approx(model.average, abs=0.011)
    for shares in (*published.PUBLISHED_RATINGS.values(), published.PUBLISHED_RED_TEAM):
        assert sum(shares) == pytest.approx(100, abs=0.2)


def test_memory_is_bounded_whatever_the_data_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NAMES", 5)
    found = Statistics()
    for index in range(300):
        ratings = {HELP: f"no {index}"}
        answers = [Completion(model=f"m{index}{x}", response="x" * 50_000, ratings=ratings) for x in "ab"]
        found.add(row(*answers, index=index, source=f"s{index}"))
    assert len(found.answers) <= 6
    assert found.answers[statistics.OTHERS] == 595
    assert len(found.sources) <= 6
    assert len(found.not_numbers) <= statistics.EXAMPLES
    assert found.distribution(HELP) == {"not a number": 600}


def test_the_markdown_shows_the_published_beside_ours_and_does_nothing_else() -> None:
    rows = some_rows(60)
    evil = "a|b\n# <script>alert(1)</script> [x](javascript:y) ![i](http://e.com/p.png) `c`"
    rows.append(row(Completion(model=evil, response="r", ratings={HELP: evil}), index=60, source=evil))
    text = tables_of(gather(rows))
    assert "4.70)" in text  # GPT-4V's published average
    assert "79.4" in text
    assert "<script" not in text.replace("\\<", "")
    assert not re.search(r"(?<!\\)[`\[]", text)
    for block in text.split("\n\n"):
        if block.startswith("| "):
            widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
            assert len(widths) == 1, block


def test_the_json_is_plain_and_complete() -> None:
    found = json.loads(json.dumps(gather(some_rows(80)).to_json(), allow_nan=False))
    assert found["rows"] == 80
    assert sum(found["answers_per_row"].values()) == 80
    assert found["ratings"][HELP]["published"] == [0.228, 0.142, 0.134, 0.234, 0.263]
    assert sum(found["ratings"][HELP]["shares"]) == pytest.approx(1, abs=1e-5)
    assert found["models"]["gpt-4v"]["published"]["average"] == 4.70
    assert found["models"]["mine"]["published"] is None
    assert found["prompt_characters"]["least"] == 0
    assert found["prompt_characters"]["most"] == 49
    assert found["pairs"]["authors"]["pairs"] > 0


def test_nothing_at_all_is_still_a_report(tmp_path: Path) -> None:
    path = report(Statistics(), tmp_path)
    assert "0 rows" in path.read_text()
    assert draw(gather([row(Completion(model="m", response=""))]), tmp_path) == {}


def test_quantiles_are_those_of_the_sorted_values() -> None:
    values = sorted(random.Random(1).choices(range(200), k=500))
    places = {"least": 0, "median": 249, "90%": 449, "99%": 494, "most": -1}
    assert statistics.quantiles(Counter(values)) == {name: values[place] for name, place in places.items()}
    assert statistics.quantiles({7: 1}) == dict.fromkeys(places, 7)


def test_the_report_shows_its_pictures_and_is_the_same_each_time(tmp_path: Path) -> None:
    from PIL import Image

    found = gather([*some_rows(150), row(Completion(model="$x_{$", response="r"), index=9)])
    path = report(found, tmp_path / "a")
    again = report(found, tmp_path / "b")
    names = ["ratings", "models", "wins", "lengths"]
    for name in names:
        assert f"]({name}.png)" in path.read_text()
        with Image.open(tmp_path / "a" / f"{name}.png") as image:
            assert image.width > 400
        for file in (f"{name}.png", f"{name}.svg"):
            assert (path.parent / file).read_bytes() == (again.parent / file).read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        ["report.md", *(f"{n}.{k}" for n in names for k in ("png", "svg"))]
    )


def test_length_groups_hold_equally_many_answers() -> None:
    found = Statistics()
    for length in range(1, 121):
        ratings = dict.fromkeys(ASPECTS, "2" if length <= 60 else "4")
        found.add(row(Completion(model="m", response="x" * length, ratings=ratings), index=length))
    groups = length_groups(found, 4)
    assert groups == [(15.5, 2.0, 0.0), (45.5, 2.0, 0.0), (75.5, 4.0, 0.0), (105.5, 4.0, 0.0)]
    (whole,) = length_groups(found, 1)
    assert whole == pytest.approx((60.5, 3.0, 1.96 * (120 / 119 / 120) ** 0.5))


def test_labels_keep_their_distance() -> None:
    placed = statistics_report._space_labels([4.0, 3.99, 3.98, 1.1, 1.0, 1.0], 0.2, 1.0)
    assert all(a - b >= 0.2 - 1e-9 for a, b in pairwise(placed))
    assert min(placed) >= 1.0
