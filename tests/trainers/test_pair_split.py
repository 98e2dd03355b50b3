"""Which side of the split a prompt is on."""

from dataclasses import replace

from support.images import ImageRef
from tests.trainers.pair_makers import pairs_of
from trainers.data.pair_rules import RULES, PairCounts, pair_up
from trainers.data.pair_split import prompt_key, set_aside, split
from trainers.data.rows import Completion, Preference, Row

FOUR = Row(
    index=0,
    id="7",
    prompt="What is it?",
    images=(ImageRef("merged_images/7.jpg"),),
    completions=tuple(
        Completion(model=model, response=f"{model} says", ratings={"Helpfulness": rating})
        for model, rating in (("a", "5"), ("b", "4"), ("c", "1"), ("d", "4"))
    ),
)


def row(image: str = "merged_images/7.jpg", prompt: str = "What is it?") -> Row:
    return replace(FOUR, images=(ImageRef(image),), prompt=prompt)


def test_all_pairs_of_a_prompt_fall_on_one_side() -> None:
    rows = [
        replace(FOUR, index=i, prompt=f"Question {i % 400}?", images=(ImageRef(f"merged_images/{i % 400}.jpg"),))
        for i in range(1200)
    ]
    made = list(pair_up(rows, RULES["authors"], PairCounts()))

    def sides(share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
        held_out: list[Preference] = []
        return list(set_aside(made, share, seed, held_out)), held_out

    train, test = sides(0.25, 3)
    assert len(test) + len(train) == len(made)
    assert not {pair.prompt for pair in test} & {pair.prompt for pair in train}
    assert 60 <= len({pair.prompt for pair in test}) <= 140
    assert {pair.prompt for pair in sides(0.25, 4)[1]} != {pair.prompt for pair in test}
    assert (sides(0, 3), sides(1, 3)) == ((made, []), ([], made))


def test_a_prompt_is_the_same_however_it_and_its_picture_are_written() -> None:
    key = prompt_key(row(image="merged_images/7.jpg", prompt="<image>\nWhat is it?"))
    assert key == prompt_key(row(image="/somewhere/else/7.jpg", prompt="what is it"))
    assert key != prompt_key(row(image="merged_images/8.jpg", prompt="what is it"))
    assert key != prompt_key(row(image="merged_images/7.jpg", prompt="what is this"))
    one, other = (prompt_key(replace(row(), images=(ImageRef("", data=data),))) for data in (b"1", b"2"))
    assert one != other
    assert prompt_key(row(prompt="?!")) != prompt_key(row(prompt="!?"))
    pair = pairs_of(FOUR, RULES["authors"])[0][0]
    assert isinstance(pair, Preference)
    assert prompt_key(pair) == prompt_key(FOUR)


def test_a_longer_share_keeps_what_was_in_the_test_side() -> None:
    keys = [str(i) for i in range(500)]
    small = {key for key in keys if split(key, 0.1) == "test"}
    assert small < {key for key in keys if split(key, 0.3) == "test"}
