"""English words as the benchmarks' scripts see them: tokens, singular forms, parts of speech, lemmas; nothing is
downloaded.

    tokens("Two men sit.")                    # ["Two", "men", "sit", "."]
    singular("men"), lemma("men")             # "man", "men", which is a word of its own in WordNet
    tagged(["Two", "men"])                    # [("Two", "CD"), ("men", "NNS")]

The official scripts use NLTK with data that must be downloaded, and pattern. Here the rules are NLTK's and
PatternLite's own, and the two tables NLTK would fetch lie in `tasks/benchmarks/data`:
the weights of its averaged perceptron tagger (M. Honnibal, MIT) and the one-word lemmas and
irregular forms of WordNet 3.0 (Princeton University, WordNet licence).
"""

import importlib.util
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger

DATA: Final = Path(__file__).parent / "data"
PartOfSpeech = Literal["n", "v", "a", "r"]

SENTENCE_END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+")
NUMBER: Final = re.compile(r"""(?:^|[:;("'\[{*@])-?[.,]?\d[\d,.-]*$""")
INITIALS: Final = re.compile(r"(?:^|\W)(?:[a-z]\.)+[a-z]$")
LETTER: Final = re.compile(r"(?:^|\W)([a-z])$")
LETTERS_ALONE: Final = frozenset("cdefghklmnprstvw")
"""Letters that are initials or abbreviations whatever follows; after others a capital letter begins a sentence."""
ABBREVIATIONS: Final = frozenset(
    (
        *(
            "adm",
            "ave",
            "bros",
            "co",
            "col",
            "corp",
            "ct",
            "dr",
            "ft",
            "gen",
            "inc",
            "jr",
            "lt",
            "ltd",
            "maj",
            "messrs",
            "mr",
            "mrs",
            "ms",
        ),
        *("ph.d", "prof", "rep", "sen", "sr", "st", "vs", "yr"),
        *("jan", "feb", "aug", "sept", "sep", "oct", "nov", "dec", "tues", "wed", "fri"),
        *(
            "ala",
            "ariz",
            "calif",
            "colo",
            "conn",
            "fla",
            "ga",
            "ill",
            "kan",
            "ky",
            "mich",
            "minn",
            "nev",
            "okla",
            "ore",
            "pa",
            "tenn",
        ),
        *("va", "vt", "wash", "wis"),
    )
)
"""What ends in a full stop without ending a sentence."""
STARTERS: Final = frozenset(
    ("although", "but", "he", "however", "if", "in", "it", "many", "most", "so", "some", "the", "there", "these")
)
"""With a capital letter they begin a sentence even after an abbreviation."""


def tokens(text: str) -> list[str]:
    """Words and punctuation marks, as nltk's `word_tokenize` has them.

    That one finds sentences by a model of Punkt's, whose licence is not stated. Sentences matter only because a full
    stop is cut off a word at the end of one; for that, any stop before white space will do which follows no
    abbreviation, initial or numbering. The words themselves are found by nltk's own rules.
    """
    split = _word_tokenizer()
    return [token for sentence in _sentences(text) for token in split(sentence)]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in SENTENCE_END.finditer(text):
        if not _goes_on(text[start : end.start()], text[end.end() : end.end() + 16]):
            yield text[start : end.start()]
            start = end.end()
    yield text[start:]


def _goes_on(before: str, after: str) -> bool:
    """Whether the stop at the end of `before` ends no sentence."""
    bare = before.rstrip("\"')]")
    if not bare.endswith("."):
        return False
    quoted = len(bare) < len(before)
    word = bare[:-1].rsplit(None, 1)[-1:]
    last = word[0].lower() if word else ""
    lower = after[:1].islower()
    if letter := LETTER.search(last):
        return letter[1] in LETTERS_ALONE or (lower and not quoted)
    if NUMBER.search(last):
        return not quoted and (lower or after[:1] in ";:,.!?")
    if last.lstrip("([\"'") in ABBREVIATIONS or INITIALS.search(last):
        return quoted or lower or re.split(r"\W", after, maxsplit=1)[0].lower() not in STARTERS
    return False


@cache
def _word_tokenizer() -> Callable[[str], list[str]]:
    from nltk.tokenize.destructive import NLTKWordTokenizer  # inside: takes a second or two

    tokenizer = NLTKWordTokenizer()
    # Today's NLTK cuts words at dashes; that with which the benchmarks' figures were made did not.
    tokenizer.PUNCTUATION = [rule for rule in tokenizer.PUNCTUATION if not rule[0].search("\u2014")]
    tokenize: Callable[[str], list[str]] = tokenizer.tokenize
    return tokenize


@cache
def singular(word: str) -> str:
    """The singular that pattern.en makes of a word, mistakes included: "bus" becomes "bu"."""
    return str(_inflect().singularize(word))


@cache
def _inflect() -> Any:
    # From its file: importing the package pattern.text.en would try to download WordNet, which inflection does not
    # need.
    found = importlib.util.find_spec("pattern")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "PatternLite is not installed (pip install PatternLite): CHAIR's singular forms come from it"
        )
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
    """The shortest of a word's base forms in WordNet, as nltk's `WordNetLemmatizer` chooses; the word itself where
    there is none."""
    lemmas, exceptions = _wordnet(part)

    def known(forms: Iterable[str]) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in lemmas]

    def stripped(forms: Iterable[str]) -> list[str]:
        return [
            form.removesuffix(old) + new for form in forms for old, new in SUBSTITUTIONS[part] if form.endswith(old)
        ]

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
