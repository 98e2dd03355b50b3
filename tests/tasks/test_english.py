import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.benchmarks import english


@pytest.mark.parametrize(
    ("text", "tokens"),
    (
        ("Two men sit. He can't go!", ["Two", "men", "sit", ".", "He", "ca", "n't", "go", "!"]),
        ("He cannot.", ["He", "can", "not", "."]),
        ("At 3 p.m. Mr. Smith left, today.", ["At", "3", "p.m.", "Mr.", "Smith", "left", ",", "today", "."]),
        ('(A dog.) "A cat."', ["(", "A", "dog", ".", ")", "``", "A", "cat", ".", "''"]),
        ("a close-up of a dog's bed", ["a", "close-up", "of", "a", "dog", "'s", "bed"]),
        ("A dog\u2014a cat", ["A", "dog\u2014a", "cat"]),
        ("", []),
        (" \n ", []),
    ),
)
def test_words_and_marks_are_cut_as_nltk_does(text: str, tokens: list[str]) -> None:
    assert english.tokens(text) == tokens


@pytest.mark.parametrize(
    ("word", "singular"),
    (
        ("dogs", "dog"),
        ("people", "person"),
        ("men", "man"),
        ("wolves", "wolf"),
        ("bus", "bu"),
        ("buses", "bus"),
        ("glass", "glas"),
        ("", ""),
    ),
)
def test_singulars_are_patterns_mistakes_included(word: str, singular: str) -> None:
    assert english.singular(word) == singular


@pytest.mark.parametrize(
    ("word", "part", "lemma"),
    (
        ("buses", "n", "bus"),
        ("bus", "n", "bus"),
        ("women", "n", "woman"),
        ("men", "n", "men"),  # a word of its own in WordNet, as long as "man"
        ("geese", "n", "goose"),
        ("seated", "v", "seat"),
        ("seated", "n", "seated"),
        ("tied", "v", "tie"),
        ("larger", "a", "large"),
        ("quickly", "r", "quickly"),
        ("Dogs", "n", "Dogs"),
        ("zzzs", "n", "zzzs"),
        ("", "n", ""),
    ),
)
def test_lemmas_are_wordnets(word: str, part: english.PartOfSpeech, lemma: str) -> None:
    assert english.lemma(word, part) == lemma


def test_words_are_tagged_by_what_stands_beside_them() -> None:
    assert english.tagged(["They", "fish", "for", "fish", "."]) == [
        ("They", "PRP"),
        ("fish", "VBP"),
        ("for", "IN"),
        ("fish", "NN"),
        (".", "."),
    ]
    assert english.tagged([]) == []


@given(st.text())
def test_any_text_can_be_cut_and_always_alike(text: str) -> None:
    tokens = english.tokens(text)
    assert tokens == english.tokens(text)
    assert all(token and not token.isspace() for token in tokens)


@given(st.lists(st.text(min_size=1), max_size=6))
def test_any_words_can_be_tagged_and_each_gets_one_tag(words: list[str]) -> None:
    assert [word for word, _ in english.tagged(words)] == words


@given(st.text(), st.sampled_from(("n", "v", "a", "r")))
def test_any_word_has_a_base_form_no_longer_than_a_letter_more(word: str, part: english.PartOfSpeech) -> None:
    assert len(english.lemma(word, part)) <= len(word) + 1
    assert english.lemma(word, part) == english.lemma(word, part)
    assert english.singular(word) == english.singular(word)
