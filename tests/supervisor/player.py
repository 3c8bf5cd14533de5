"""A process for a Procfile of a test: ``python player.py NAME [--exit CODE | --deaf | --serve]``.

It notes its start and its end in the file ORDER of the home, so that a test can read who came when.
"""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
from pathlib import Path

ORDER = Path(os.environ["SYNTHQ_HOME"]) / "order"
END = threading.Event()


def note(text: str) -> None:
    with ORDER.open("a") as file:
        file.write(text + "\n")


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


def main() -> None:
    name, flags = sys.argv[1], sys.argv[2:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "--deaf" in flags else lambda *_: END.set())
    note(f"{name} began")
    print(f"hello from {name}", flush=True)
    if "--exit" in flags:
        sys.exit(int(flags[flags.index("--exit") + 1]))
    if "--serve" in flags:
        server = http.server.HTTPServer(("127.0.0.1", int(os.environ["SYNTHQ_API_PORT"])), Ready)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    END.wait()
    note(f"{name} ended")


if __name__ == "__main__":
    main()
