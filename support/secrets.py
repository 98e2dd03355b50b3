"""Takes secrets out of a text before it is stored, printed or exported.

    remember_address("http://me:hunter22@host/v1?api-key=4f5e")     # what is sent there is known from now on
    remember(key)                                                   # so is this; keys in the environment always are
    redact("401: no entry for hunter22, see http://a:b@c/?token=x") # "401: no entry for [secret], see http://[secret]@c/..."
    redact_known(body)              # any JSON that a server sent: known secrets alone, for what is kept of it

A known secret is found as it is, percent-encoded, in JSON or HTML, in base64 (wherever it begins in what is encoded)
and in hex, and where its beginning alone is repeated. What looks like a key, or stands where addresses have theirs, is
taken out of what people read, not of what models say.
"""

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

HIDDEN: Final = "[secret]"
SHORTEST: Final = 6
"""Characters of what is looked for; less, or a word, would blank out ordinary text."""
BEGINNING: Final = 8
"""Characters of a secret's beginning that may not be told either."""
NOT_SECRET: Final = frozenset(
    """
    password secret apikey api-key api_key your-api-key no-key-required not-needed username anonymous
    sk-no-key-required changeme placeholder lm-studio ollama unused default
    """.split()
)
"""What stands in the place of a key where there is none."""
HARMLESS: Final = ("api-version",)
"""Parameters of a server's address that may be shown."""
READABLE: Final = ("version", "model", "deployment", "deployment-id", "engine", "provider", "region", "project", "name")
"""Those whose values are words of other texts, too."""

_VARIABLE: Final = re.compile(
    r"(?:.*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?|PAT)(?:_\w{1,6})?", re.IGNORECASE
)
"""Names of variables that hold keys."""
_FRAME: Final = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
_PATH: Final = re.compile(r"[/~]|\.{1,2}/|[A-Za-z]:\\")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\S+)", re.IGNORECASE)
_LOGIN_ALONE: Final = re.compile(r"[^\s/?#@:]+:[^\s/?#@]+@[\w.-]+(?::\d+)?(?:/\S*)?")
"""An address without its scheme, as proxies are named."""
_NAME_OF_KEY: Final = (
    r"[\w.-]{0,40}(?:key|token|secret|sig|signature|passw(?:or)?d|pwd|auth|authorization|credentials?|code|jwt|sas"
    r"|session)"
)
# Lengths are bounded, since texts may be long and made to take the square of their length.
_QUERY_KEY: Final = re.compile(rf"(?<=[?&#;])({_NAME_OF_KEY})=([^&\s'\"#]+)", re.IGNORECASE)
_LOGIN: Final = re.compile(r"(?<=://)(?:[^\s/?#@:]{0,500}:\S{0,1000}|[^\s/?#@:]{1,500})@")
_PREFIX: Final = r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|csk|pplx|r8|glpat)[-_]"
_SHAPES: Final = re.compile(
    r"\b(?:bearer|basic)\s+(?=\S{0,200}[\d*])[^\s,;\"'}]{6,}"
    rf"|{_PREFIX}(?=[\w*-]{{0,200}}\d)[\w-]{{16,500}}"
    rf"|{_PREFIX}(?=[\w*-]{{6}})[\w-]{{0,100}}\*{{2,}}[\w*-]{{0,100}}"
    r"|\b(?:gh[pousr]|github_pat)_\w{16,}|\bxox[abeprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{10,}|\bya29\.[\w-]{6,}|\beyJ[\w-]{8,1000}\.[\w.-]+"
    r"|(?<=api[-_]key[=:])[^&\s]{6,}"
    r"|(?<=--api-key[ =])\S+|(?<=--hf-token[ =])\S+|(?<=--password[ =])\S+",
    re.IGNORECASE,
)
"""Keys of known forms, whoever's they are."""
_MARKS: Final = (
    *(f"{name}{sign}" for name in "sk pk rk xai hf nvapi pplx r8 glpat".split() for sign in "-_"),
    *"bearer basic ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ xox akia aiza ya29. eyj api-key api_key".split(),
    *("--hf-token", "--password"),
)
"""One of these is in each, in small letters: a text without any needs no search."""
_REST: Final = re.compile(r"[\w%+/=@!$*~-]*")
_KEY_BEGINS: Final = re.compile(r"(?:sk|pk|rk|gsk|xai|hf|nvapi|csk|pplx|r8|glpat|ghp|xox.)[-_]|AIza|eyJ")

_sent: set[str] = set()
"""Secrets that this process sends somewhere."""


def remember(*secrets: str | None) -> None:
    """These are secrets from now on; what is too short, or stands for no key, is none."""
    _sent.update(part for secret in secrets if secret for part in _split_secret(secret))


def remember_address(text: str) -> None:
    """So are the password, the keys and the fragment of each address in a text, such as an argument."""
    for found in _ADDRESS.finditer(text):
        remember(*_secrets_of_address(found[1]))
    if _LOGIN_ALONE.fullmatch(text):
        remember(*_secrets_of_address(text))


def forget() -> None:
    """No secret is known any more, but those of the environment."""
    _sent.clear()


def redact(text: str) -> str:
    """A text as people may read it: without known secrets, and without what looks like one."""
    text = _QUERY_KEY.sub(rf"\1={HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", _take_out(text, _known())))
    low = text.lower()
    return _SHAPES.sub(HIDDEN, text) if any(mark in low for mark in _MARKS) else text


def redact_known(value: Any) -> Any:
    """Any JSON, or a text, without known secrets."""
    forms = _known()
    return _redact_json(value, forms) if forms else value


def _redact_json(value: Any, forms: tuple["_Form", ...]) -> Any:
    if isinstance(value, str):
        return _take_out(value, forms)
    if isinstance(value, list):
        return [_redact_json(one, forms) for one in value]
    if isinstance(value, Mapping):
        return {_redact_json(name, forms): _redact_json(one, forms) for name, one in value.items()}
    return value


@dataclass(frozen=True)
class _Form:
    """One way in which a secret may be written."""

    text: str
    shortest: int
    """So many characters of its beginning are enough."""
    is_word: bool = False
    """Whether it is found as a whole word only."""
    begin: str = field(init=False, compare=False)
    """These, in small letters."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "begin", self.text[: self.shortest].lower())


def _known() -> tuple[_Form, ...]:
    return _forms_of_all(frozenset(_sent) | _secrets_of_environment(tuple(os.environ.items())))


@lru_cache(maxsize=4)
def _secrets_of_environment(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    return frozenset(secret for name, value in variables for secret in _secrets_of_variable(name, value))


def _secrets_of_variable(name: str, value: str) -> Iterator[str]:
    if (address := _ADDRESS.fullmatch(value.strip())) is not None:
        yield from filter(_is_searchable, _secrets_of_address(address[1]))
    elif name.lower().endswith("_proxy"):
        yield from filter(_is_searchable, _secrets_of_address(value))
    elif _names_key(name) and not _PATH.match(value):
        yield from _split_secret(value.strip())


def _split_secret(text: str) -> Iterator[str]:
    """A secret, and each of its lines, since tools show them one by one; not the line that begins or ends a key."""
    lines = text.split("\n")
    whole = [] if _FRAME.fullmatch(lines[0].strip()) else [text]
    for part in (*whole, *(line.strip() for line in lines if len(lines) > 1)):
        if _is_searchable(part) and not _FRAME.fullmatch(part):
            yield part


@lru_cache(maxsize=4096)
def _names_key(name: str) -> bool:
    return _VARIABLE.fullmatch(name) is not None


def _secrets_of_address(rest: str) -> Iterator[str]:
    """What may be secret in an address, behind its scheme."""
    login = re.match(r"([^\s/?#@:]*):(\S*)@|([^\s/?#@:]+)@", rest)
    if login is not None:
        user, password = login[1] or "", login[2] or login[3] or ""
        for form in dict.fromkeys((password, unquote(password))):
            yield form
            if user:
                yield f"{unquote(user)}:{form}"
        if len(user) >= BEGINNING and user not in os.getcwd():  # paths must stay readable; some take a key as the user
            yield unquote(user)
        rest = rest[login.end() :]
    rest, _, fragment = rest.partition("#")
    yield unquote(fragment)
    path, _, query = rest.partition("?")
    of_path = [part for step in path.split("/") for part in step.split(";")[1:]]
    for part in (*query.split("&"), *of_path):
        name, _, value = part.partition("=")
        value = unquote(value.replace("+", " ")).strip("'\"")
        if name.lower() not in HARMLESS and value:
            for sign in ";" if part in of_path else "?&":
                yield f"{sign}{part}"
            if re.fullmatch(_NAME_OF_KEY, name, re.IGNORECASE) or (name not in READABLE and _is_no_word(value[:12])):
                yield value


def _is_no_word(text: str) -> bool:
    """Whether no ordinary text has it in it: at least eight signs, not all of them small letters."""
    mixed = r"(?=.*\d)(?=.*[A-Za-z])|.*[a-z].*[A-Z]|.*[A-Z]{2}"
    return len(text) >= BEGINNING and re.match(mixed, text, re.DOTALL) is not None


def _is_searchable(secret: str) -> bool:
    if len(secret) < SHORTEST or secret.lower() in NOT_SECRET:
        return False
    return len(secret) >= (10 if secret.isdigit() else 8 if secret.isalpha() else SHORTEST)


@lru_cache(maxsize=64)
def _forms_of_all(secrets: frozenset[str]) -> tuple[_Form, ...]:
    forms = {form.text.lower(): form for secret in sorted(secrets) for form in _forms_of(secret)}
    return tuple(sorted(forms.values(), key=lambda form: -len(form.text)))


def _forms_of(secret: str) -> Iterator[_Form]:
    """All ways to write a secret that are looked for."""
    raw = secret.encode("utf-8", "surrogatepass")
    if len(raw) >= SHORTEST:
        for form in (raw.hex(), *_write_base64(raw)):
            yield _Form(form, min(len(form), 12 if len(form) < 40 else 16))
    written = json.dumps(secret)[1:-1]
    encoded = (quote(raw, safe=""), quote(raw), quote_plus(raw), quote(raw, safe="!$&'()*+,/:;=?@"))
    others = (*encoded, quote(encoded[0]), written, written.replace("/", r"\/"))
    for form in {*others, html.escape(secret), repr(secret)[1:-1]} - {secret}:
        yield _Form(form, len(form))
    is_word = secret.isalpha() or secret.isdigit()
    yield _Form(secret, len(secret) if is_word else _shortest_beginning(secret), is_word)


def _write_base64(raw: bytes) -> Iterator[str]:
    """What of a secret is the same in the base64 of any text that it stands in: at three places, in two alphabets."""
    for place in range(3):
        bits = 8 * place
        whole = base64.b64encode(b"\0" * place + raw).decode().rstrip("=")
        # The first character of ours and the last one hold bits of the neighbours, too.
        core = whole[-(-bits // 6) : (bits + 8 * len(raw)) // 6]
        if len(core) >= BEGINNING:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _shortest_beginning(secret: str) -> int:
    """How many characters of a secret's beginning tell something of it; a word that it begins with does not."""
    for size in range(BEGINNING, len(secret)):
        start = secret[:size]
        if _KEY_BEGINS.match(start) or _is_no_word(start):
            return size
    return len(secret)


@lru_cache(maxsize=64)
def _pattern_of(forms: tuple[_Form, ...]) -> re.Pattern[str]:
    parts = (
        rf"(?<![\w.]){re.escape(form.text)}(?!\w)" if form.is_word else re.escape(form.text[: form.shortest])
        for form in forms
    )
    return re.compile("|".join(parts), re.IGNORECASE)


def _take_out(text: str, forms: tuple[_Form, ...]) -> str:
    """The text with each known secret, as far as it goes on, replaced."""
    low = text.lower()
    forms = tuple(form for form in forms if form.begin in low)  # much faster than the pattern
    if not forms:
        return text
    pattern, parts, done = _pattern_of(forms), [], 0
    while (found := pattern.search(text, done)) is not None:
        size, is_whole = max((_compare(text, found.start(), form) for form in forms), default=(0, True))
        parts += [text[done : found.start()], HIDDEN]
        done = max(found.start() + size, found.end())
        if not is_whole:  # the rest may be written in another way
            done = _REST.match(text, done).end()  # type: ignore[union-attr]
    return "".join((*parts, text[done:]))


def _compare(text: str, start: int, form: _Form) -> tuple[int, bool]:
    """How many characters of the form stand there, 0 where they are too few; and whether it is all of it."""
    size = 0
    while size < len(form.text) and text[start + size : start + size + 1].lower() == form.text[size].lower():
        size += 1
    return (size if size >= form.shortest else 0), size == len(form.text)
