"""Texts that anyone may have written: a value, or a ValueError of one line."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from support.parsing import parse_json, parse_object, parse_toml, parse_yaml


def read_yaml(data: bytes) -> Any:
    return parse_yaml(data, yaml.SafeLoader)


LAUGHS = b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n".encode() for n in range(12)
)
REFUSED: dict[str, tuple[Callable[[bytes], Any], bytes, str]] = {
    "JSON, deep": (parse_json, b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "JSON, deep objects": (parse_json, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
    "JSON, a long number": (parse_json, b"1" * 100_000, "digits"),
    "JSON, cut": (parse_json, b'{"a": [1,', "Expecting value"),
    "JSON, empty": (parse_json, b"", "Expecting value"),
    "JSON, no UTF-8": (parse_json, b'"\xff"', "can't decode"),
    "an object, a list": (parse_object, b"[]", "holds no JSON object, but a list"),
    "an object, null": (parse_object, b"null", "holds no JSON object"),
    "TOML, deep": (parse_toml, b"a = " + b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "TOML, a long number": (parse_toml, b"a = " + b"1" * 100_000, "digits"),
    "TOML, twice": (parse_toml, b"a = 1\na = 2", "overwrite"),
    "TOML, a date that is none": (parse_toml, b"a = 2020-13-45", "TOML|month|Expected|date"),
    "TOML, no UTF-8": (parse_toml, b'a = "\xff"', "can't decode"),
    "TOML, UTF-16": (parse_toml, 'a = "b"'.encode("utf-16"), "can't decode"),
    "YAML, deep": (read_yaml, b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "YAML, laughs": (read_yaml, LAUGHS, "aliases stand for more than 1,000,000 values"),
    "YAML, in itself": (read_yaml, b"a: &a [*a]", "an alias stands for what it is in"),
    "YAML, a tag": (read_yaml, b"a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "YAML, a list as key": (read_yaml, b"? [a]\n: 1", "unhashable"),
    "YAML, a date that is none": (read_yaml, b"a: 2020-13-45", "month"),
    "YAML, a long number": (read_yaml, b"a: " + b"1" * 100_000, "digits"),
    "YAML, controls": (read_yaml, b"a: \x00\x01", "special characters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_text_that_cannot_be_read_is_an_error_of_one_line(kind: str) -> None:
    parse, data, told = REFUSED[kind]
    with pytest.raises(ValueError, match=told) as error:
        parse(data)
    assert type(error.value) is ValueError
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_what_is_right_is_read() -> None:
    assert parse_json('{"a": [1, null]}') == parse_object(b'{"a": [1, null]}') == {"a": [1, None]}
    assert parse_json("[]", object_pairs_hook=list) == []
    assert parse_toml(b"\xef\xbb\xbfa = 1\r\n") == {"a": 1}
    assert read_yaml(b"a: &x [1]\nb: *x") == {"a": [1], "b": [1]}
