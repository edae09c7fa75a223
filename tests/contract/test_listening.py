"""How a server is reached: TLS, a unix socket, a proxy with a path prefix, browsers. Over the real interface."""

from __future__ import annotations

import datetime
import json
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from criticrm_client import CriticRM
from criticrm_model import CriticRMError
from criticrm_server.settings import Settings
from criticrm_server.sockets import unix_socket
from support.live import Server, wait_until
from support.reverse_proxy import CALLER, reverse_proxy

PASSWORD = "of the key"
BODY = {"prompt": "Why is the sky blue?", "responses": ["Scattering.", "The sea."]}


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its encrypted key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "critic")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )
    return paths


def test_tls_with_an_encrypted_key_and_without_documentation(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = write_certificate(tmp_path)
    monkeypatch.setenv("CRITICRM_SSL_KEYFILE_PASSWORD", PASSWORD)
    options = ["--engine", "fake", "--no-docs", "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with Server(str(tiny_checkpoint), *options, log=tmp_path / "log") as server:
        assert server.url.startswith("https://127.0.0.1:")
        with httpx.Client(base_url=server.url, verify=ssl.create_default_context(cafile=certificate)) as client:
            assert len(client.post("/score", json=BODY).json()["results"]) == 2
            for path in ("/docs", "/redoc", "/openapi.json"):
                assert client.get(path).status_code == 404
            server.signal(signal.SIGTERM)  # the client's connection is open
            assert server.exit_code(timeout_s=30) == 0
        assert PASSWORD not in server.screen()
        assert "documentation at" not in server.screen()


def test_a_certificate_that_can_not_be_used_is_refused_at_once(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    settings = Settings(ssl_certfile=certificate, ssl_keyfile=key, ssl_keyfile_password=PASSWORD)
    settings.check_certificate()
    for wrong, named in (
        ({"ssl_keyfile": key}, "is the password right"),  # OpenSSL must not ask at the terminal
        ({"ssl_keyfile": key, "ssl_keyfile_password": "wrong"}, "is the password right"),
        ({"ssl_keyfile": certificate, "ssl_keyfile_password": PASSWORD}, "can't be used"),
        ({"ssl_keyfile": tmp_path / "absent"}, "ssl_keyfile .*absent can't be read"),
    ):
        with pytest.raises(CriticRMError, match=named):
            Settings(ssl_certfile=certificate, **wrong).check_certificate()
    with pytest.raises(ValidationError, match="ssl_keyfile needs ssl_certfile"):
        Settings(ssl_keyfile=key)


def test_a_unix_socket(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "critic.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(path))
    with Server(str(tiny_checkpoint), "--engine", "fake", "--uds", str(path), log=tmp_path / "log") as server:
        assert f"over the unix socket {path}, documentation at /docs" in server.screen()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert client.post("/score", json=BODY).status_code == 200
            assert client.get("/health/ready").status_code == 200
        with pytest.raises(CriticRMError, match="choose another path with --uds"), unix_socket(path):
            pass
        server.signal(signal.SIGTERM)
        assert server.exit_code(timeout_s=30) == 0
    assert not path.exists()


def test_a_socket_that_another_server_took_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "critic.sock"
    with unix_socket(path):
        with unix_socket(path) as second:
            second.listen()
            path.rename(tmp_path / "kept")
            path.touch()
        assert path.exists()


@pytest.fixture(scope="module")
def under_a_prefix(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--engine", "fake", "--root-path", "/critic/", "--trusted-proxies", "127.0.0.0/8,::1"]
    origins = ["--cors-origins", "https://app.example.org"]
    with Server(
        str(tiny_checkpoint), *options, *origins, log=tmp_path_factory.mktemp("prefix") / "log", log_format="json"
    ) as server:
        yield server


def test_a_proxy_with_a_path_prefix(under_a_prefix: Server) -> None:
    with reverse_proxy(under_a_prefix.url, "/critic") as url, httpx.Client() as client:
        page = client.get(f"{url}/docs").text
        root = url.removesuffix("/critic")
        document = re.search(r"url: '([^']+openapi\.json)'", page)
        assert document is not None
        assert document[1] == "/critic/openapi.json"
        assert client.get(root + document[1]).json()["servers"] == [{"url": "/critic"}]
        assets = re.findall(r"(?:src|href)=\"([^\"]+\.(?:js|css))\"", page)
        assert len(assets) == 2
        for asset in assets:
            assert client.get(root + asset).status_code == 200, asset
        with CriticRM(url) as critic:
            assert len(critic.score("Why?", ["Because."]).results) == 1
    # A proxy that leaves the prefix in place, and none at all.
    for prefix in ("/critic", ""):
        assert httpx.post(f"{under_a_prefix.url}{prefix}/score", json=BODY).status_code == 200
        assert httpx.get(f"{under_a_prefix.url}{prefix}/health/ready").status_code == 200
    assert "/health/" not in under_a_prefix.screen()  # probes are not logged, under the prefix either


def score_over(url: str, server: Server, **headers: str) -> str:
    """The address of the caller of one request that is scored, as the server's log has it."""
    before = len(callers_of_scores(server))
    assert httpx.post(f"{url}/score", json=BODY, headers=headers).status_code == 200
    wait_until(lambda: len(callers_of_scores(server)) > before, 10, server.screen)  # logged after the response
    return callers_of_scores(server)[-1]


def callers_of_scores(server: Server) -> list[str]:
    lines = [json.loads(line) for line in server.screen().splitlines()]
    return [line["client"] for line in lines if line["message"].startswith("POST /score 200")]


def test_a_trusted_proxy_says_who_called(under_a_prefix: Server) -> None:
    with reverse_proxy(under_a_prefix.url, "/critic") as url:
        assert score_over(url, under_a_prefix) == CALLER


def test_another_proxy_is_not_believed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--engine", "fake", "--trusted-proxies", "10.0.0.0/8"]
    with Server(str(tiny_checkpoint), *options, log=tmp_path / "log", log_format="json") as server:
        assert score_over(server.url, server, **{"X-Forwarded-For": CALLER}) == "127.0.0.1"


def test_pages_of_named_origins_may_call(under_a_prefix: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, allowed in (("https://app.example.org", True), ("https://elsewhere.example.org", False)):
        preflight = httpx.options(f"{under_a_prefix.url}/score", headers={"Origin": origin, **asked})
        assert (preflight.status_code == 200) is allowed
        answer = httpx.post(f"{under_a_prefix.url}/score", json={}, headers={"Origin": origin})
        assert answer.status_code == 422
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    assert "x-queue-time" in answer.headers.get("access-control-expose-headers", "x-queue-time").lower()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"root_path": "critic"}, "begins with a slash"),
        ({"cors_origins": "app.example.org"}, "is no origin"),
        ({"cors_origins": "https://app.example.org/"}, "is no origin"),
        ({"trusted_proxies": "10.0.0.0/33"}, "does not appear to be"),
    ],
)
def test_values_that_say_nothing(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**settings)
