"""A small conversation of schemathesis with a served one, and a document that says what is not so."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from document import ask, conversation


@pytest.mark.slow
def test_the_service_is_as_its_document_says() -> None:
    said = conversation(3, 1, ram=True, phases="fuzzing", again=False)
    assert said.faults == ""
    assert said.cases > 30


def test_a_document_that_says_what_is_not_so_is_found(tmp_path: Path) -> None:
    answer = {"application/json": {"schema": {"type": "object", "required": ["alive"]}}}
    operation = {"responses": {"200": {"description": "yes", "content": answer}}}
    document = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {"/healthz": {"get": operation}}}

    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document if self.path == "/openapi.json" else {"dead": True}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = ask(f"127.0.0.1:{server.server_address[1]}", tmp_path, 2, 1, "fuzzing", "")
        server.shutdown()
    assert "alive" in said.faults
