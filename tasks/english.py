"""English words as the benchmarks' scripts see them: tokens, singular forms, parts of speech, lemmas; nothing is downloaded.

    tokens("Two men sit.")                    # ["Two", "men", "sit", "."]
    singular("men"), lemma("men")             # "man", "men" in CHAIR's lemma variant and "man" here: WordNet has it as an exception
    tagged(["Two", "men"])                    # [("Two", "CD"), ("men", "NNS")]

The official scripts use NLTK with data that must be downloaded, and pattern. Here the rules are NLTK's and PatternLite's own, and the two
tables NLTK would fetch lie in `tasks/data`: the weights of its averaged perceptron tagger (M. Honnibal, MIT) and the one-word lemmas and
irregular forms of WordNet 3.0 (Princeton University, WordNet licence).
"""

import importlib.util
import json
import lzma
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger

DATA: Final = Path(__file__).parent / "data"
PartOfSpeech = Literal["n", "v", "a", "r"]

SENTENCE_END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+")


def tokens(text: str) -> list[str]:
    """Words and punctuation marks, as nltk's `word_tokenize` has them.

    That one finds sentences by a model of Punkt's, whose licence is not stated. Sentences matter only because a full stop is cut off a word
    at the end of one, and for that any stop before white space will do; the words themselves are found by nltk's own rules.
    """
    split = _word_tokenizer()
    return [token for sentence in SENTENCE_END.split(text) for token in split(sentence)]


@cache
def _word_tokenizer() -> Callable[[str], list[str]]:
    from nltk.tokenize.destructive import NLTKWordTokenizer  # inside: takes a second or two

    tokenize: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return tokenize


@cache
def singular(word: str) -> str:
    """The singular that pattern.en makes of a word, mistakes included: "bus" becomes "bu"."""
    return str(_inflect().singularize(word))


@cache
def _inflect() -> Any:
    # From its file: importing the package pattern.text.en would try to download WordNet, which inflection does not need.
    found = importlib.util.find_spec("pattern")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("PatternLite is not installed (pip install PatternLite): CHAIR's singular forms come from it")
    path = Path(next(iter(found.submodule_search_locations))) / "text" / "en" / "inflect.py"
    spec = importlib.util.spec_from_file_location("_pattern_en_inflect", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tagged(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with its Penn Treebank tag, as nltk's `pos_tag` gives them."""
    return [(str(word), str(tag)) for word, tag in _tagger().tag(list(words))]


@cache
def _tagger() -> "PerceptronTagger":
    from nltk.tag.perceptron import PerceptronTagger

    table = _table("perceptron_tagger")
    tagger = PerceptronTagger(load=False)
    tagger.model.weights, tagger.tagdict = table["weights"], table["tagdict"]
    tagger.classes = tagger.model.classes = set(table["classes"])
    return tagger


SUBSTITUTIONS: Final[Mapping[PartOfSpeech, Sequence[tuple[str, str]]]] = {
    "n": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}
"""WordNet's endings and what they give way to (morphy, WordNet 3.0)."""


@cache
def lemma(word: str, part: PartOfSpeech = "n") -> str:
    """The shortest of a word's base forms in WordNet, as nltk's `WordNetLemmatizer` chooses; the word itself where there is none."""
    lemmas, exceptions = _wordnet(part)

    def known(forms: Iterable[str]) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in lemmas]

    def stripped(forms: Iterable[str]) -> list[str]:
        return [form.removesuffix(old) + new for form in forms for old, new in SUBSTITUTIONS[part] if form.endswith(old)]

    if word in exceptions:
        return min(known([word, *exceptions[word]]), key=len, default=word)
    forms = stripped([word])
    found = known([word, *forms])
    while not found and forms:
        forms = stripped(forms)
        found = known(forms)
    return min(found, key=len, default=word)


@cache
def _wordnet(part: PartOfSpeech) -> tuple[frozenset[str], Mapping[str, list[str]]]:
    table = _table("wordnet_lemmas")[part]
    return frozenset(table["lemmas"]), table["exceptions"]


@cache
def _table(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))
