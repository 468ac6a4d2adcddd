"""The container's health check, over real HTTP and HTTPS."""

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from exporter.probe import URL, ask, main

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def answering(status, text="ok", context=None):
    """Start a server that answers every request like this; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(f"{text} {self.path}\n".encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (503, 1), (404, 1), (302, 1)])
def test_only_a_healthy_or_password_protected_daemon_is_healthy(status, code, capsys):
    with answering(status) as port:
        assert main([f"http://127.0.0.1:{port}/-/healthy"]) == code
    assert capsys.readouterr().out == "ok /-/healthy\n"


def test_a_certificate_for_another_name_is_accepted():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("jobruns.example.com").configure_cert(context)
    with answering(200, context=context) as port:
        assert ask(f"https://127.0.0.1:{port}/-/healthy") == (200, "ok /-/healthy")


def test_a_port_where_nothing_listens_is_not_healthy(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main([f"http://127.0.0.1:{port}/"]) == 1
    assert capsys.readouterr().out == "no response: ConnectionRefusedError\n"


def test_a_daemon_that_does_not_respond_in_time_is_not_healthy():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.05)


def test_the_image_and_the_compose_file_use_the_probe():
    assert 'CMD ["python", "-m", "exporter.probe"]' in (ROOT / "Dockerfile").read_text()
    assert "[CMD, python, -m, exporter.probe]" in (ROOT / "deploy/compose/compose.yaml").read_text()
    assert URL.endswith(":9797/-/healthy")


def test_the_probe_imports_only_fast_modules():
    code = "import sys, exporter.probe; print(sorted({'httpx', 'pydantic', 'structlog'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.stdout == "[]\n"
