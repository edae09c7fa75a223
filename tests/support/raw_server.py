"""An HTTP server that sends any bytes as they are, on threads of its own."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Send = Callable[[Callable[[bytes], None]], None]


@contextmanager
def raw_server(answer: bytes | Send) -> Iterator[tuple[str, list[bytes]]]:
    """Its URL, and the heads of the requests that it got. Each connection is closed after its first answer."""
    heads: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while line := self.rfile.readline():
                head += line
                if line == b"\r\n":
                    break
            heads.append(head)
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self.rfile.read(int(length[0].split(b":")[1]) if length else 0)
            if isinstance(answer, bytes):
                self.wfile.write(answer)
            else:
                answer(lambda content: self.wfile.write(content) and None)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *_: Any) -> None:
            """The client hung up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", heads
        finally:
            server.shutdown()
            thread.join()
