"""The built site on this computer alone, with the two headers that let its live page use several threads."""

import functools
import sys
import webbrowser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"
PORTS = range(8720, 8740)  # the same one again where it is free: a browser keeps the models by address


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; JavaScript modules and WebAssembly under the types that browsers ask for."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_) -> None:
        """Say nothing of each file."""


class PlainHandler(Handler):
    """The same without the headers, as on GitHub Pages."""

    end_headers = SimpleHTTPRequestHandler.end_headers


class Server(ThreadingHTTPServer):
    """A server that says nothing where a browser has closed its end, as it does when a page is left."""

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(site: Path, port: int = 0, handler: type[Handler] = Handler) -> Server:
    """A server of a folder on loopback; port 0 is any free one. Raises OSError where the port is taken."""
    return Server((HOST, port), functools.partial(handler, directory=str(site)))


def serve(first: Path) -> int:
    """Show a site's first page in the browser, and serve until Ctrl-C."""
    for port in (*PORTS, 0):
        try:
            serving = server(first.parent, port)
            break
        except OSError:
            continue
    address = f"http://{HOST}:{serving.server_port}/{first.name}"
    print(f"The site is at {address}, for this computer alone, until Ctrl-C.")
    webbrowser.open(address)
    with serving:
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
