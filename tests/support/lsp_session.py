"""A real editor session: the command in a process of its own, JSON-RPC over its pipes."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

WAIT = 120


class Session:
    """One client; use it in a ``with`` block."""

    def __init__(
        self,
        folder: Path,
        encodings: tuple[str, ...] = ("utf-16",),
        workspace: dict | None = None,
        arguments: tuple[str, ...] = ("--lsp",),
    ) -> None:
        self.folder = folder
        self.workspace = workspace or {}
        self.arguments = arguments
        self.encodings = encodings
        self._count = 0
        self._arrived: queue.Queue[dict | None] = queue.Queue()
        self._kept: list[dict] = []

    def __enter__(self):
        pytest.importorskip("pygls")  # the server's process needs it, not this one
        command = [sys.executable, "-m", "compile_plan.compiler", *self.arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder)
        threading.Thread(target=self._listen, daemon=True).start()
        general = {"positionEncodings": list(self.encodings)}
        self.capabilities = self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": self.folder.as_uri(),
                "capabilities": {"general": general, "workspace": self.workspace},
            },
        )["capabilities"]
        self.tell("initialized", {})
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.ask("shutdown", None)
            self.tell("exit", None)
        self.code = self.process.wait(WAIT)
        self.errors = self.process.stderr.read().decode()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def uri(self, name):
        return (self.folder / name).as_uri()

    def open(self, name, text):
        document = {"uri": self.uri(name), "languageId": "plan", "version": 1, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": document})
        return self.findings(name)

    def change(self, name, text, version=2):
        document = {"uri": self.uri(name), "version": version}
        self.tell("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})
        return self.findings(name)

    def findings(self, name):
        def about(message):
            return message.get("method") == "textDocument/publishDiagnostics" and message["params"][
                "uri"
            ] == self.uri(name)

        return self._wait(about)["params"]["diagnostics"]

    def heard(self, method):
        """Wait for a request of the server and answer it."""
        asked = self._wait(lambda message: message.get("method") == method)
        self._send({"jsonrpc": "2.0", "id": asked["id"], "result": None})
        return True

    def heard_of(self, name):
        return any(message.get("params", {}).get("uri") == self.uri(name) for message in self._kept)

    def at(self, method, name, line, character, **more):
        place = {
            "textDocument": {"uri": self.uri(name)},
            "position": {"line": line, "character": character},
        }
        return self.ask(f"textDocument/{method}", {**place, **more})

    def ask(self, method, params):
        self._count += 1
        number = self._count
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        answer = self._wait(lambda message: message.get("id") == number and "method" not in message)
        if "error" in answer:
            raise RefusedError(answer["error"]["message"])
        return answer["result"]

    def tell(self, method, params):
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def _send(self, message):
        body = json.dumps(message).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def _wait(self, wanted):
        for at, message in enumerate(self._kept):
            if wanted(message):
                return self._kept.pop(at)
        while True:
            message = self._arrived.get(timeout=WAIT)
            if message is None:
                raise EOFError(self.process.stderr.read().decode())
            if wanted(message):
                return message
            self._kept.append(message)

    def _listen(self):
        stream = self.process.stdout
        while header := stream.readline():
            length = int(header.split(b":")[1])
            while stream.readline().strip():
                pass
            self._arrived.put(json.loads(stream.read(length)))
        self._arrived.put(None)


class RefusedError(Exception):
    """The server answered with an error."""
