"""What is a secret is found in every form that a server or a library may write it in; ordinary text stays."""

import base64
import html
import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.secrets import HIDDEN, NOT_SECRET, forget, redact, redact_known, remember, remember_address

KEY = "sk-proj-PLANTED0123/456+789"
PASSWORD = "P@ss/w0rd'\"&x"

FORMS: dict[str, Any] = {
    "as it is": lambda text: text,
    "in a header": lambda text: f"Authorization: Bearer {text}",
    "in quotes": repr,
    "in JSON": json.dumps,
    "in JSON of JavaScript": lambda text: json.dumps(text).replace("/", "\\/"),
    "in HTML": html.escape,
    "percent-encoded": lambda text: quote(text, safe=""),
    "in lower case": str.lower,
    "in hex": lambda text: text.encode().hex(),
    "in base64": lambda text: base64.b64encode(text.encode()).decode(),
    "in base64 behind one byte": lambda text: base64.b64encode(f":{text}".encode()).decode(),
    "in base64 between others": lambda text: base64.b64encode(f"ab{text}:xyz".encode()).decode(),
    "in base64 for addresses": lambda text: base64.urlsafe_b64encode(f"{text}?".encode()).decode(),
}


def leaked(text: str, secret: str, form: str) -> bool:
    """Whether eight characters of the secret in this form are left."""
    written = FORMS[form](secret).strip("'\"").removeprefix("Authorization: Bearer ")
    return any(written[at : at + 8] in text for at in range(2, len(written) - 10))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", (KEY, PASSWORD), ids=("key", "password"))
def test_a_known_secret_is_found_in_any_form(secret: str, form: str) -> None:
    remember(secret)
    said = f"401 for {FORMS[form](secret)} here"
    for shown in (redact(said), redact_known(said), redact_known({said: [said]}).popitem()[1][0]):
        assert HIDDEN in shown
        assert shown.startswith("401 for ")
        assert shown.endswith(" here")
        assert not leaked(shown, secret, form)


@pytest.mark.parametrize("size", (8, 12, 20))
def test_its_beginning_alone_is_not_told_either(size: int) -> None:
    remember(KEY)
    assert redact(f"key {KEY[:size]}... is wrong") == f"key {HIDDEN}... is wrong"


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    (
        ("HF_TOKEN", "planted-1-of-hf", "planted-1-of-hf"),
        ("AZURE_OPENAI_API_KEY", "planted2azure", "planted2azure"),
        ("MY_JUDGE_KEY_2", "planted3mine", "planted3mine"),
        ("AWS_SECRET_ACCESS_KEY", "planted4aws", "planted4aws"),
        ("HTTPS_PROXY", "http://me:planted5proxy@p:3128", "planted5proxy"),
        ("http_proxy", "me:planted6proxy@p:3128", "planted6proxy"),
        ("HF_ENDPOINT", "https://t:planted7mirror@m", "planted7mirror"),
        ("OPENAI_BASE_URL", "https://h/v1?sig=planted8", "planted8"),
    ),
)
def test_keys_in_the_environment_are_known(name: str, value: str, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact_known(f"no entry for {hidden}.") == f"no entry for {HIDDEN}."


@pytest.mark.parametrize(
    ("text", "shown"),
    (
        ("--model-url=http://u:p@h:1/v1?a=b", "--model-url=http://[secret]@h:1/v1?a=b"),
        ("http://u:pa/ss@h/v1", "http://[secret]@h/v1"),
        ("socks5://tok3n@h", "socks5://[secret]@h"),
        ("https://h/v1?x=1&api-key=ab&y=2", "https://h/v1?x=1&api-key=[secret]&y=2"),
        ("https://h/#access_token=ab", "https://h/#access_token=[secret]"),
        ("https://h/?subscription-key=a&code=b", "https://h/?subscription-key=[secret]&code=[secret]"),
        ("see https://medium.com/@user/post", "see https://medium.com/@user/post"),
        ("got Bearer abc123def", "got [secret]"),
        ("sk-ab***wxyz", "[secret]"),
        ("hf_abcdefghijklmnop0123", "[secret]"),
        ("ghp_abcdefghijklmnop0123", "[secret]"),
        ("xoxb-123456789012", "[secret]"),
        ("vllm serve m --api-key tok --port 1", "vllm serve m --api-key [secret] --port 1"),
        ("hf-internal-testing/tiny-random-llava-1", "hf-internal-testing/tiny-random-llava-1"),
        ("--judge-key-env MY_KEY", "--judge-key-env MY_KEY"),
        ("a basic question, 5 tokens", "a basic question, 5 tokens"),
    ),
)
def test_what_looks_like_a_secret_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact_known(text) == text  # a model may say what it likes


def test_of_an_address_what_is_secret_is_known_and_names_are_not() -> None:
    remember_address("--judge-url=http://user:PASSW0RD@h/v1?api-key=QUERYKEY&deployment=llava-7b&x=ODD#FRAGMENT")
    said = "user PASSW0RD QUERYKEY llava-7b FRAGMENT dXNlcjpQQVNTVzBSRA== http://h/v1?x=ODD"
    assert redact_known(said) == "user [secret] [secret] llava-7b [secret] [secret]A== http://h/v1[secret]"


@pytest.mark.parametrize("word", ("x", "none", "EMPTY", "1234567", "password", "sunny", "sk-no-key-required"))
def test_what_stands_for_no_key_blanks_out_nothing(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", word)
    remember(word)
    assert redact(f"a {word} day") == f"a {word} day"


def test_a_secret_that_is_a_word_is_found_as_a_word_only() -> None:
    remember("swordfish", "1234567890")
    assert redact("a swordfish, two swordfishes; 1234567890 is 0.1234567890") == (
        f"a {HIDDEN}, two swordfishes; {HIDDEN} is 0.1234567890"
    )


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=8, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_no_secret_is_left_in_any_text(secret: str, before: str, after: str) -> None:
    try:
        remember(secret)
        if not secret.isalpha() and not secret.isdigit() and secret.lower() not in NOT_SECRET:
            assert secret not in redact_known(before + secret + after).replace(HIDDEN, "\0")
    finally:
        forget()


@pytest.mark.parametrize(
    "text", ("http://a:", "sk-", "sk-a*", "?key", "bearer a", "eyJ", "http://", "hunter2", "&key=")
)
def test_a_text_without_end_takes_a_moment(text: str) -> None:
    remember("hunter2hunter2")
    started = time.monotonic()
    redact(text * (200_000 // len(text)))
    assert time.monotonic() - started < 5


def test_each_line_of_a_key_is_secret_but_not_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = "-----BEGIN PRIVATE KEY-----"
    monkeypatch.setenv(
        "SERVER_PRIVATE_KEY", f"{frame}\nMIIEvQIBADANBgkq\nzzQ9xTfpLmN34vvQW8\n-----END PRIVATE KEY-----\n"
    )
    assert redact("what about zzQ9xTfpLmN34vvQW8?") == f"what about {HIDDEN}?"
    assert redact(f"it begins with {frame}") == f"it begins with {frame}"


@pytest.mark.parametrize(
    ("address", "said", "shown"),
    (
        ("me:hunter22xx@proxy.host:3128", "407: no hunter22xx here", f"407: no {HIDDEN} here"),
        ("http://host/v1;key=Abc123def456/chat", "401: Abc123def456", f"401: {HIDDEN}"),
        ("http://host/v1;key=Abc123def456/chat", "at /v1;key=Abc123def456/chat", f"at /v1{HIDDEN}/chat"),
    ),
)
def test_addresses_without_a_scheme_and_parameters_of_a_path_are_searched(address: str, said: str, shown: str) -> None:
    remember_address(address)
    assert redact(said) == shown
