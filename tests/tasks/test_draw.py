"""Which documents a limit asks."""

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tasks.draw import draw, draw_evenly
from tasks.registry import registry
from tasks.task_yaml import load_yaml


def mme(categories: str, pairs: int) -> list[dict[str, Any]]:
    """Questions of MME's layout, all of one category before the next."""
    return [
        {"id": f"{category}/{pair}/{side}", "category": category, "pair": pair}
        for category in categories
        for pair in range(pairs)
        for side in "yn"
    ]


def chosen(docs: list[dict[str, Any]], limit: int, seed: int = 0, task: str = "mme") -> list[dict[str, Any]]:
    return [docs[place] for place in draw(registry().task(task), docs, limit, seed)]


def test_documents_come_evenly_from_categories_and_pairs_stay_together() -> None:
    found = chosen(mme("ABCDE", 20), 30)
    assert set(Counter(doc["category"] for doc in found).values()) == {6}
    assert set(Counter((doc["category"], doc["pair"]) for doc in found).values()) == {2}


def test_fewer_documents_than_categories_are_of_different_ones() -> None:
    found = chosen(mme("ABCDE", 20), 6)
    assert len({doc["category"] for doc in found}) == 3
    assert {len({d["category"] for d in chosen(mme("ABCDE", 20), 6, seed)}) for seed in range(20)} == {3}
    firsts = {chosen(mme("ABCDE", 20), 2, seed)[0]["category"] for seed in range(40)}
    assert len(firsts) > 2  # not always the first of the table


def test_a_group_that_no_limit_has_room_for_is_cut() -> None:
    assert len(chosen(mme("AB", 3), 1)) == 1


def test_the_draw_is_the_seeds_and_not_the_tables_order() -> None:
    docs = mme("ABC", 10)
    ids = {doc["id"] for doc in chosen(docs, 12)}
    assert ids == {doc["id"] for doc in chosen(docs[::-1], 12)}
    assert ids != {doc["id"] for doc in chosen(docs, 12, seed=1)}
    assert ids < {doc["id"] for doc in chosen(docs, 24)}  # kept answers of a smaller one are of use


def test_a_table_is_read_as_rows_are() -> None:
    docs = mme("ABC", 10)
    assert draw(registry().task("mme"), Dataset.from_list(docs), 12, 0) == draw(registry().task("mme"), docs, 12, 0)


def test_questions_of_one_figure_stay_together() -> None:
    docs = [
        {"id": f"{sub}{s}{q}", "category": "VD", "subcategory": sub, "set_id": s, "question_id": q}
        for sub in ("chart", "map")
        for s in range(4)
        for q in range(2 + s)
    ]
    found = chosen(docs, 10, task="hallusionbench")
    sizes = Counter((doc["subcategory"], doc["set_id"]) for doc in found)
    assert all(count == 2 + number for (_, number), count in sizes.items())


@pytest.mark.parametrize("task", ("mme", "pope", "hallusionbench", "mmbench", "chair"))
def test_documents_without_these_fields_are_drawn_all_the_same(task: str) -> None:
    docs = [{"id": str(number)} for number in range(50)]
    assert len(chosen(docs, 10, task=task)) == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 40))
def test_never_more_than_the_limit_and_never_nothing(items: list[tuple[str, int]], limit: int) -> None:
    categories, groups = [(name,) for name, _ in items], [(name, str(group)) for name, group in items]
    found = draw_evenly(categories, groups, [(str(at),) for at in range(len(items))], limit, "s")
    assert 1 <= len(found) <= min(limit, len(items))
    assert found == sorted(set(found))


def test_every_field_that_tasks_name_is_one_of_their_documents() -> None:
    """A misspelt field would make one category of all."""
    made_by_docs = {"mme": {"pair"}, "mmbench": {"question_number"}, "mmmu": {"subject"}}
    for task in registry().tasks.values():
        columns = {*load_yaml(task.path)["metadata"]["columns"], *made_by_docs.get(task.name, ())}
        assert {*task.categories, *task.together} <= columns, task.name
