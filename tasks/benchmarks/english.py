"""English words as the benchmarks' scripts read them: tokens, singulars, parts of speech, lemmas; no downloads.

    tokens("Two men sit.")                    # ["Two", "men", "sit", "."]
    singular("men"), lemma("men")             # "man", "men", which is a word of its own in WordNet
    tagged(["Two", "men"])                    # [("Two", "CD"), ("men", "NNS")]

The official scripts use NLTK with data that must be downloaded, and pattern. Here the rules are NLTK's and
PatternLite's own, and the two tables NLTK would fetch lie in `tasks/benchmarks/data`: the weights of its averaged
perceptron tagger (M. Honnibal, MIT) and the one-word lemmas and irregular forms of WordNet 3.0 (Princeton University,
WordNet licence).
"""

import importlib
import importlib.util
import json
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import ModuleType
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
    """
    adm ave bros co col corp ct dr ft gen inc jr lt ltd maj messrs mr mrs ms ph.d prof rep sen sr st vs yr jan feb aug
    sept sep oct nov dec tues wed fri ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt
    wash wis
    """.split()
)
"""What ends in a full stop without ending a sentence."""
STARTERS: Final = frozenset("although but he however if in it many most so some the there these".split())
"""With a capital letter they begin a sentence even after an abbreviation."""


def tokens(text: str) -> list[str]:
    """Words and punctuation marks, as nltk's `word_tokenize` has them.

    That one finds sentences by a model of Punkt's, whose licence is not stated. Sentences matter only because a full
    stop is cut off a word at the end of one; for that, any stop before white space will do which follows no
    abbreviation, initial or numbering. The words themselves are found by nltk's own rules.
    """
    split = _make_word_tokenizer()
    return [token for sentence in _split_sentences(text) for token in split(sentence)]


def _split_sentences(text: str) -> Iterator[str]:
    start = 0
    for end in SENTENCE_END.finditer(text):
        if not _is_within_sentence(text[start : end.start()], text[end.end() : end.end() + 16]):
            yield text[start : end.start()]
            start = end.end()
    yield text[start:]


def _is_within_sentence(before: str, after: str) -> bool:
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
def _make_word_tokenizer() -> Callable[[str], list[str]]:
    tokenizer = _import_alone("nltk.tokenize.destructive").NLTKWordTokenizer()
    # Today's NLTK cuts words at dashes; that with which the benchmarks' figures were made did not.
    tokenizer.PUNCTUATION = [rule for rule in tokenizer.PUNCTUATION if not rule[0].search("\u2014")]
    tokenize: Callable[[str], list[str]] = tokenizer.tokenize
    return tokenize


def _import_alone(name: str) -> Any:
    """A module of a package without what the package's own files import: of nltk, scipy and a second of time."""
    top, before = name.partition(".")[0], set(sys.modules)
    if top in before:
        return importlib.import_module(name)
    try:
        for package in accumulate(name.split(".")[:-1], "{}.{}".format):
            spec = importlib.util.find_spec(package)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            sys.modules[package] = empty = ModuleType(package)
            empty.__path__ = list(spec.submodule_search_locations)
        return importlib.import_module(name)
    finally:  # whoever imports the package later gets all of it
        for new in set(sys.modules) - before:
            if new.partition(".")[0] == top:
                del sys.modules[new]


@cache
def singular(word: str) -> str:
    """The singular that pattern.en makes of a word, mistakes included: "bus" becomes "bu"."""
    return str(_load_inflect().singularize(word))


@cache
def _load_inflect() -> Any:
    # From its file: importing the package pattern.text.en would try to download WordNet, which is not needed here.
    found = importlib.util.find_spec("pattern")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("CHAIR's singular forms come from pattern, which is not installed", name="pattern")
    path = Path(next(iter(found.submodule_search_locations))) / "text" / "en" / "inflect.py"
    spec = importlib.util.spec_from_file_location("_pattern_en_inflect", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tagged(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with its Penn Treebank tag, as nltk's `pos_tag` gives them."""
    return [(str(word), str(tag)) for word, tag in _make_tagger().tag(list(words))]


@cache
def _make_tagger() -> "PerceptronTagger":
    from nltk.tag.perceptron import PerceptronTagger

    table = _read_table("perceptron_tagger")
    tagger = PerceptronTagger(load=False)
    tagger.model.weights, tagger.tagdict = table["weights"], table["tagdict"]
    tagger.classes = tagger.model.classes = set(table["classes"])
    return tagger


SUBSTITUTIONS: Final[Mapping[PartOfSpeech, Sequence[tuple[str, str]]]] = {
    "n": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}
"""WordNet's endings and what they give way to (morphy, WordNet 3.0)."""


@cache
def lemma(word: str, part: PartOfSpeech = "n") -> str:
    """The shortest of a word's base forms in WordNet, as by nltk's `WordNetLemmatizer`; the word itself without one."""
    lemmas, exceptions = _read_wordnet(part)

    def find_known(forms: Iterable[str]) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in lemmas]

    def replace_endings(forms: Iterable[str]) -> list[str]:
        rules = SUBSTITUTIONS[part]
        return [form.removesuffix(old) + new for form in forms for old, new in rules if form.endswith(old)]

    if word in exceptions:
        return min(find_known([word, *exceptions[word]]), key=len, default=word)
    forms = replace_endings([word])
    found = find_known([word, *forms])
    while not found and forms:
        forms = replace_endings(forms)
        found = find_known(forms)
    return min(found, key=len, default=word)


@cache
def _read_wordnet(part: PartOfSpeech) -> tuple[frozenset[str], Mapping[str, list[str]]]:
    table = _read_table("wordnet_lemmas")[part]
    return frozenset(table["lemmas"]), table["exceptions"]


@cache
def _read_table(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))
