"""The shared rules by which tasks from a table are scored."""

import pytest

from tasks.benchmarks.rules import contains, exact, matches, read_yes_no, vqa_accuracy, vqa_normal_form


@pytest.mark.parametrize(
    ("answer", "read"),
    (
        ("Yes, there is no dog.", "yes"),
        ("**No**", "no"),
        ("There is: yes", "yes"),
        ("I know that", "other"),
        ("It may be yes or no", "other"),
        ("", "other"),
        ("None", "other"),
    ),
)
def test_yes_or_no_is_the_first_word_or_the_only_one_of_the_two(answer: str, read: str) -> None:
    assert read_yes_no(answer) == read


def test_an_exact_answer_has_nothing_but_the_true_one() -> None:
    assert exact(" Red  Square.", "red square")
    assert not exact("a red square", "red square")


def test_a_contained_answer_stands_as_whole_words() -> None:
    assert contains("There is a Red\nsquare!", "red square")
    assert not contains("a reddish thing", "red")
    assert contains("it costs $5 (five)", "$5")
    assert not contains("it costs $50", "$5")


def test_a_pattern_fits_anywhere_in_any_case() -> None:
    assert matches("About 12 of THEM", r"\b1[0-9] of them")
    assert not matches("120", r"^12$")


@pytest.mark.parametrize(("same", "accuracy"), ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)))
def test_vqa_accuracy_is_the_mean_over_all_but_one_of_ten_people(same: int, accuracy: float) -> None:
    others = [f"thing {number}" for number in range(10 - same)]
    assert vqa_accuracy("dog", ["dog"] * same + others) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "form"),
    (
        ("The two dogs", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # both apostrophes are missing
        ("id've", "id've"),  # the table has it in upper case only
        ("somebody'd", "somebodyd"),  # the table's mistake
        ("let's", "let's"),
        ("1,000", "1000"),
        ("1,000 a-b", "1000 ab"),  # a comma between digits takes out every sign
        ("x-y", "x y"),
        ("x- y", "x y"),
        ("red/green", "red green"),
        ("3.5", "3.5"),
        ("yes.", "yes"),
        ("." * 40, "." * 8),  # 32 full stops at most
    ),
)
def test_texts_are_compared_in_the_form_of_the_official_script(text: str, form: str) -> None:
    assert vqa_normal_form(text) == form


def test_texts_are_normalised_only_where_people_differ() -> None:
    assert vqa_accuracy("the dog", ["dog"] * 10) == 0.0
    assert vqa_accuracy("the dog", ["dog"] * 9 + ["cat"]) == 1.0
    assert vqa_accuracy(" dog\n", ["dog"] * 10) == 1.0
