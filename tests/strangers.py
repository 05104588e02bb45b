"""Servers that are not what an address promises: for tests of what is said of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("401", "404", "503", "page", "json", "silent", "drips")


@contextmanager
def stranger(kind: str) -> Iterator[str]:
    """Address of a server that answers so: with a status, a web page, JSON of another program, nothing, or for ever."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if kind == "silent":
                ended.wait()
                return
            self.send_response(int(kind) if kind.isdecimal() else 200)
            self.flush_headers()
            while kind == "drips" and not ended.is_set():
                self.wfile.write(b"X-More: to come\r\n")
                time.sleep(0.2)
            body = b'{"detail": "x"}' if kind == "json" else b"<html><body>Router</body></html>"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
