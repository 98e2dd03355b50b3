"""A server of chat completions that is broken or hostile in any way that was seen or thought of.

    server = FaultServer()
    server.url("deep")              # every call of a question is answered by the mode "deep"
    server.url("deep", when="1")    # only questions that end with "1"; the others get a reply
    server.url("deep", first=True)  # only the first call of each question
    server.url("deep", at="models") # the list of models is, and questions get replies
    server.calls("deep")            # what came: path, headers, body, and how many bytes were sent back

What it may do stands in `fault_modes.py`.
"""

import asyncio
import json
import random
import ssl
import threading

from tests.adversary.fault_modes import MODES, Call, Wire


class FaultServer:
    """See the module's docstring. With `tls`, it speaks TLS by a certificate that nobody trusts."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.host, self.tls = host, tls
        self.log: list[Call] = []
        self._seen: set[tuple[str, str]] = set()
        self._rules: dict[str, tuple[str, str | None, bool, str]] = {}
        self.loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self._started.wait(20)

    def url(self, name: str, *, when: str | None = None, first: bool = False, at: str = "chat") -> str:
        """The address at which `name` acts: on questions that end so, on the first call of each, or on the list."""
        assert name in MODES
        place = f"{name}.{random.randrange(10**9)}"
        self._rules[place] = (name, when, first, at)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{shown}:{self.port}/{place}/v1"

    def rename(self, url: str, place: str) -> None:
        """Make the mode of an address act at `/PLACE/v1`, too."""
        self._rules[place] = self._rules[url.split("/")[3]]

    def calls(self, url: str) -> list[Call]:
        """The questions that came to an address."""
        place = url.split("/")[3]
        return [call for call in self.log if call.mode == place and call.path.endswith("/completions")]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end_calls(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _end_calls(self) -> None:
        """End what goes on for ever."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        started = asyncio.start_server(self._handle, self.host, 0, ssl=self.tls)
        server = self.loop.run_until_complete(started)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self.loop.run_forever()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            headers = {
                name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)
            }
            data = await reader.readexactly(int(headers.get("content-length", 0)))
            path = "/" + path.split("/", 3)[3] if "://" in path else path  # as a proxy is asked
            body = json.loads(data) if data else {}
            call = Call(path.split("/")[1], path, method, headers, body, self.port)
            self.log.append(call)
            name = self._choose(call)
            call.faulty = name != "ok"
            await MODES[name](call, Wire(call, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _choose(self, call: Call) -> str:
        name, when, first, at = self._rules.get(call.mode, (call.mode, None, False, "chat"))
        key = (call.mode, call.path + call.question)
        is_first = key not in self._seen
        self._seen.add(key)
        lists = call.path.endswith("/models")
        acts = lists == (at == "models") and (when is None or call.question.endswith(when)) and (is_first or not first)
        return name if acts and name in MODES else "ok"
