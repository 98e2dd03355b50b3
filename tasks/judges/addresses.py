"""Where a server of chat completions is, and the key that is sent there: for a judge and a scored model alike.

    server = server_of("http://localhost:8000", name="mm")      # Server(url="http://localhost:8000/v1", ...)
    server = server_of(None, name="gpt-4o", role="judge")       # OPENAI_BASE_URL, else OpenAI's
    async with server.connect(120.0) as connection: ...         # the official client

An address may be given as people have it: with /v1 or without, with /chat/completions at its end, with a query such as
Azure's, with user and password. What may be a secret in it is sent, and neither stored nor shown.
"""

import base64
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from support.errors import NoKeyError, SettingError, first_line
from support.secrets import HARMLESS, redact, remember, remember_address
from tasks.judges.capabilities import host_of
from tasks.judges.providers import AZURE_KEY, AZURE_TOKEN, PROVIDERS, host_of_key, keys_at, suggest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Role = Literal["model", "judge"]
"""What a server is asked as; the names of its options begin so."""

OPENAI: Final = "https://api.openai.com/v1"
KEY: Final = "OPENAI_API_KEY"
BASE_URL: Final = "OPENAI_BASE_URL"
NO_KEY: Final = "none"
"""Sent where there is no key: the official client must have one."""
AZURE: Final = (*PROVIDERS["azure"].hosts, ".azure-api.net")
HERE: Final = ("localhost", "127.0.0.1", "::1")
"""Hosts that no proxy reaches: there they are another machine."""
_CALL: Final = re.compile(r"(/chat)?/completions/*$")
_OTHER_END: Final = re.compile(r"(?<=/v\d)/(models|responses|chat|embeddings)(/.*)?$")
_VERSIONED: Final = re.compile(r"/v\d+\w*(/|$)")
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOKS_SECRET: Final = re.compile(r"[^A-Z0-9_]")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server of chat completions."""

    url: str
    """What stands before /chat/completions; no query, no credentials."""
    other: str | None = None
    """The same with or without /v1, where the address left that open: asked if the server has nothing at `url`."""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each call."""
    login: str | None = field(default=None, repr=False)
    """user:password of the address."""
    key: str | None = field(default=None, repr=False)
    key_from: str = ""
    """The environment variable that the key is from."""
    role: Role = "model"

    def __post_init__(self) -> None:
        remember(self.key, self.login, (self.login or "").partition(":")[2], self._login_in_base64)
        remember_address(f"{self.url}{_write_query(self.query)}")

    @property
    def shown(self) -> str:
        """The address without what may be a secret; names the server in entries and in the ledger."""
        return self.url + _show_query(self.query)

    @property
    def identity(self) -> str:
        """The address, the same however it is spelled: with /v1 at its end or without, with the usual port or none."""
        usual = re.sub(r"^(http://[^/]+):80(?=/|$)|^(https://[^/]+):443(?=/|$)", r"\1\2", self.url)
        return re.sub(r"/v1$", "", usual) + _show_query(self.query)

    @property
    def headers(self) -> dict[str, Any]:
        """What is sent beside the official client's own headers."""
        if self.login is not None:
            return {"Authorization": f"Basic {self._login_in_base64}"}
        is_azure = self.host.endswith(AZURE) or self.key_from == AZURE_KEY
        if self.key is None or self.key_from == AZURE_TOKEN or not (is_azure or "api-version" in self.query):
            return {}
        from openai import Omit

        # Azure takes a bearer token for one of its directory's; its keys have a header of their own.
        return {"api-key": self.key} | ({"Authorization": Omit()} if is_azure else {})

    @property
    def host(self) -> str:
        """Without its port."""
        return urlsplit(self.url).hostname or ""

    @property
    def known_host(self) -> str:
        """What tells what its models take: HOST:PORT, of a gateway to a provider that provider's HOST."""
        return host_of_key(self.key_from) or host_of(self.url)

    @property
    def _login_in_base64(self) -> str:
        return base64.b64encode((self.login or "").encode()).decode()

    def connect(
        self, timeout: float, *, largest: int | None = None, redirects_to: Collection[str] = ()
    ) -> "AsyncOpenAI":
        """The official client, without its own retries; a call takes at most `timeout` seconds, and an answer `largest`
        bytes (if not given, as many as a reply). SettingError."""
        from httpx2 import InvalidURL
        from openai import AsyncOpenAI

        from tasks.judges.http_client import LARGEST_REPLY, LimitedClient

        limits: dict[str, Any] = {"largest": largest or LARGEST_REPLY, "redirects_to": redirects_to}
        # The official client refuses to send nothing in this header's place: it goes on the way.
        limits["left_out"] = [name for name, value in self.headers.items() if not isinstance(value, str)]
        try:
            direct = {f"all://[{host}]" if ":" in host else f"all://{host}": None for host in HERE}
            client = LimitedClient(timeout=timeout, mounts=direct, **limits)
        except (InvalidURL, ValueError, ImportError, OSError) as error:  # what the environment names
            raise SettingError(f"{self.shown}: {_name_environment()}: {first_line(error)}") from None
        return AsyncOpenAI(
            base_url=self.url,
            api_key=self.key or NO_KEY,
            max_retries=0,
            timeout=timeout,
            default_headers={name: value for name, value in self.headers.items() if isinstance(value, str)},
            default_query=self.query,
            http_client=client,
        )

    def told_of_key(self) -> str:
        """A line that says which variable is sent where; empty where that is what the variable is for."""
        if not self.key_from or self.login is not None or (self.key_from == KEY and self.url == OPENAI):
            return ""
        if self.key_from in keys_at(self.host):
            return ""
        return f"the key in {self.key_from} is sent to {self.shown}"

    def refusal(self, status: int, said: str) -> str:
        """One line of a call that the server refused: what was asked, what it answered, what to do."""
        told = f"{self.url}/chat/completions{_show_query(self.query)}: {status}: {redact(said)}"
        if status in (404, 405) or status < 400:
            return told
        if self.login is not None:
            return f"{told} (the user and password of the address were sent)"
        if self.key is None and _show_query(self.query) != _write_query(self.query):
            return f"{told} (what stands behind '?' in the address was sent)"
        if self.key is None:
            way = f"put it into a variable and name that by --{self.role}-key-env"
            return f"{told} (no key was sent: {way}, or set {next(iter(keys_at(self.host)), KEY)})"
        whose = f"the key in {self.key_from}" if self.key_from else "a key"
        return f"{told} ({whose} was sent; name the variable of another by --{self.role}-key-env)"


def server_of(
    url: str | None,
    *,
    name: str,
    role: Role = "model",
    key: str | None = None,
    variable: str | None = None,
    what: str | None = None,
) -> Server:
    """The server at `url`; without one OPENAI_BASE_URL, else OpenAI's. SettingError.

    `key` is sent there, or what the environment `variable` holds, or else OPENAI_API_KEY; to a provider's host that
    was named by itself, the provider's own. `what` gave the address.
    """
    usual = _usual_keys(url)
    what = what or (BASE_URL if url is None else f"--{role}-url")
    if url is not None and not url.strip():
        raise SettingError(f"{what} {url!r}: is empty")  # an unset variable of the shell: no call for OpenAI's
    found, key_from = (key, "") if key else _find_key(variable, role, usual)
    if found:
        _check_key(found, key_from)
    url = url or os.environ.get(BASE_URL, "").strip() or (OPENAI if found else None)
    if url is None:
        raise NoKeyError(f"{role} {name!r}: set {KEY}, or name its server with --{role}-url{suggest(name)}")
    address = _parse(url, what)
    login = unquote(address.netloc.rpartition("@")[0]) or None
    if login is not None and variable is not None:
        raise SettingError(f"--{role}-key-env {variable}: would not act: {what} has a user and a password")
    base, other = _find_bases(address)
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    sent = None if login is not None or found == NO_KEY else found
    more: dict[str, Any] = {"query": query, "login": login, "key": sent, "key_from": key_from if sent else ""}
    return Server(url=base, other=other, role=role, **more)


def proxy_of(url: str) -> str:
    """The proxy that calls of an address go through by the environment, without its password; empty for none."""
    from urllib.request import getproxies, proxy_bypass

    address, found = urlsplit(url), getproxies()
    proxy, host = found.get(address.scheme) or found.get("all") or "", address.hostname or ""
    return "" if host in HERE or proxy_bypass(host) else proxy.rpartition("@")[2]


def _name_environment() -> str:
    """The variables that say how a server is reached."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
    there = [name for known in names for name in (known, known.lower()) if os.environ.get(name)]
    return ", ".join(there) or "can't be reached"


def without_credentials(url: str) -> str:
    """An address, also one that can't be read, without password and keys; it keeps no mark of them."""
    begin, _, query = re.sub(r"(?<=://)\S*@", "", url).partition("#")[0].partition("?")
    return begin + _show_query(dict(parse_qsl(query)))


def _usual_keys(url: str | None) -> tuple[str, ...]:
    """The variables with the key for an address: of a provider its own; what OPENAI_BASE_URL names, OPENAI_API_KEY is
    for."""
    address = url or os.environ.get(BASE_URL, "")
    named = re.match(r"\s*['\"]?https?://(?:[^/?#]*@)?([^/?#:@]+)", address, re.IGNORECASE)
    found = keys_at(named[1].lower()) if named else ()
    return (*([KEY] if url is None or not found else []), *found)


def _find_key(variable: str | None, role: Role, usual: Collection[str]) -> tuple[str | None, str]:
    """The key and the variable it is from; by default the first of the `usual` ones that is set."""
    if variable is None:
        there = next((name for name in usual if os.environ.get(name, "").strip()), None)
        return (os.environ[there].strip(), there) if there else (None, "")
    option = f"--{role}-key-env"
    if not _VARIABLE.fullmatch(variable) or (_LOOKS_SECRET.search(variable) and variable not in os.environ):
        raise SettingError(f"{option}: takes the name of an environment variable that holds the key, not the key")
    if not (found := os.environ.get(variable, "").strip()):
        raise NoKeyError(f"{option} {variable}: no such environment variable, or it is empty")
    return found, variable


def _check_key(key: str, key_from: str) -> None:
    if key[0] in "'\"" or key[-1] in "'\"":  # files of variables are not always read by a shell
        raise SettingError(f"the key{f' in {key_from}' if key_from else ''}: has quotes around it")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise SettingError(f"the key{f' in {key_from}' if key_from else ''}: has a space or a sign beyond ASCII in it")


def _parse(url: str, what: str) -> SplitResult:
    """The parts of an address; SettingError without its secrets."""
    url = url.strip().strip("'\"")
    remember_address(url if "://" in url else f"http://{url}")  # as it is written
    shown = without_credentials(url)
    if not re.match(r"https?://", url, re.IGNORECASE):
        if "://" in url:
            raise SettingError(f"{what} {shown!r}: must begin with http:// or https://")
        shown = without_credentials(f"http://{url}").removeprefix("http://")
        meant = re.sub(
            r"^:?(?=\d+(/|$))", "localhost:", re.sub(r"^(https?(:/*|/+)|:?/+)", "", shown, flags=re.IGNORECASE)
        )
        scheme = "http" if re.match(r"\[|localhost\b|[\d.]+(:|/|$)|[^/]*:\d", meant) else "https"
        hint = f" (did you mean {scheme}://{meant}?)" if re.fullmatch(r"[\x21-\x7e]+", meant) else ""
        raise SettingError(f"{what} {shown!r}: no http:// or https:// in front{hint}")
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        hint = "; an IPv6 address stands in brackets: http://[::1]:8000/v1" if url.count(":") > 3 else ""
        # urlsplit repeats what it can't read, which may be a password.
        why = "the port is no number up to 65535" if "ort" in str(error) else "can't be read as an address"
        raise SettingError(f"{what} {shown!r}: {why}{hint}") from None
    rest = url[len(address.scheme) + 3 + len(address.netloc) :]
    problems = {
        "names no host": not host,
        "has an '@' behind the host: in a password '@', '/', '?' and '#' are %40, %2F, %3F and %23": "@" in rest,
        "has a space or a control character in it": re.search(r"[\s\x00-\x1f\x7f-\x9f]", url),
        "the host has other signs than letters, digits, '.', '-' and '_'": not _HOST.fullmatch(host or ""),
    }
    if found := [problem for problem, there in problems.items() if there]:
        raise SettingError(f"{what} {shown!r}: {found[0]}")
    return address


def _find_bases(address: SplitResult) -> tuple[str, str | None]:
    """What stands before /chat/completions, and what else might."""
    host = address.netloc.rpartition("@")[2].lower()
    root, path = f"{address.scheme.lower()}://{host}", re.sub("/{2,}", "/", address.path)
    whole = _CALL.search(path) is not None
    path = _OTHER_END.sub("", _CALL.sub("", path)).rstrip("/")
    if whole or _VERSIONED.search(path) or "/deployments/" in path:
        return root + path, None
    versioned = f"{root}{path}/{'openai/' if host.endswith('.openai.azure.com') and not path else ''}v1"
    # A bare host is hardly ever the whole of an address; a path may be.
    return (versioned, root) if not path else (root + path, versioned)


def _show_query(query: Mapping[str, str]) -> str:
    return _write_query({name: value for name, value in query.items() if name in HARMLESS})


def _write_query(query: Mapping[str, str]) -> str:
    return f"?{urlencode(query)}" if query else ""
