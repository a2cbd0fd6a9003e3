"""Who may use the gateway, and by which name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway.process import MAIN
from gateway.served import Served, options_of, photo, served, until
from ryla_nodes import settings
from ryla_nodes.errors import RylaError
from ryla_nodes.gateway.options import Token
from ryla_nodes.gateway.problems import redact
from ryla_nodes.gateway.security import digest, tokens_of
from ryla_nodes.gateway.urls import is_public
from ryla_nodes.gateway.webhooks import signed
from unit.fake_engine import FakeEngine

ANNA, BERT = "secret-of-anna", "secret-of-bert"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture(scope="module")
def locked(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tokens = (Token("anna", digest(ANNA)), Token("bert", digest(BERT), concurrency=2))
    options = options_of(
        tmp_path_factory.mktemp("locked"),
        engine.url,
        tokens=tokens,
        origins=("https://app.example",),
        private_urls=True,
        url_inputs=True,
        RYLA_WEBHOOK_SECRET=SECRET,
    )
    with served(options) as one:
        yield one


def _as(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": ANNA}, {"authorization": f"Basic {ANNA}"}]
)
def test_without_a_valid_token_nothing_is_to_be_had(
    locked: Served, engine: FakeEngine, headers: dict[str, str]
) -> None:
    before = len(engine.posts)
    for method, path in (
        ("POST", "/paint"),
        ("GET", "/jobs"),
        ("GET", "/metrics"),
        ("GET", "/loras"),
        ("GET", "/openapi.json"),
    ):
        answer = locked.http.request(method, path, headers=headers)
        assert answer.status_code == 401 and answer.json()["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.http.get("/health").status_code == 200 and len(engine.posts) == before
    assert set(locked.http.get("/ready", headers=headers).json()) == {"ready"}
    for page in ("/", "/docs", "/page/main.js"):
        assert locked.http.get(page, headers=headers).status_code == 200
    assert "/paint" not in locked.http.get("/docs", headers=headers).text


def test_jobs_are_their_owners_alone(locked: Served) -> None:
    answer = locked.post("paint", prompt="x", headers=_as(ANNA))
    assert answer.status_code == 200
    link = f"/jobs/{answer.headers['x-job-id']}"
    assert locked.http.get(link, headers=_as(ANNA)).status_code == 200
    for path in (link, f"{link}/result", f"{link}/events"):
        assert locked.http.get(path, headers=_as(BERT)).status_code == 404
    assert locked.http.delete(link, headers=_as(BERT)).status_code == 404
    key = {"idempotency-key": "mine"}
    ids = {locked.post("paint", prompt="x", headers={**_as(who), **key}).headers["x-job-id"] for who in (ANNA, BERT)}
    assert len(ids) == 2


def test_a_token_has_so_many_jobs_at_once(locked: Served, engine: FakeEngine) -> None:
    engine.seconds = 1.0
    later = {"prefer": "respond-async"}
    statuses = [locked.post("paint", prompt="x", headers={**_as(BERT), **later}).status_code for _ in range(3)]
    refused = locked.post("paint", prompt="x", headers={**_as(BERT), **later})
    assert statuses == [202, 202, 429] and refused.json()["code"] == "too_many_jobs"
    assert int(refused.headers["retry-after"]) >= 1
    assert locked.post("paint", prompt="x", headers={**_as(ANNA), **later}).status_code == 202
    until(lambda: not locked.gateway.jobs.alive)


def test_pages_of_other_origins_are_refused(locked: Served) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://[",
        "https://app.example.evil",
    ):
        answer = locked.post("paint", prompt="x", headers={**_as(ANNA), "origin": origin})
        assert answer.status_code == 403 and answer.json()["code"] == "forbidden_origin"
        assert "access-control-allow-origin" not in answer.headers
    answer = locked.http.get("/jobs", headers={**_as(ANNA), "sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    same = locked.post("paint", prompt="x", headers={**_as(ANNA), "origin": locked.url})
    assert same.status_code == 200
    page = locked.post("paint", prompt="x", headers={**_as(ANNA), "origin": "https://app.example"})
    assert page.status_code == 200 and page.headers["access-control-allow-origin"] == "https://app.example"
    assert "X-Seed" in page.headers["access-control-expose-headers"]
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert locked.http.options("/paint", headers=preflight).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "192.168.0.7"])
def test_a_stranger_s_name_for_this_machine_is_refused(locked: Served, host: str) -> None:
    answer = locked.http.get("/health", headers={"host": host})
    assert answer.status_code in (400, 403)
    assert locked.http.get("/health", headers={"host": "localhost:1"}).status_code == 200


def test_answers_say_what_they_are(locked: Served) -> None:
    headers = locked.http.get("/health").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "server" not in headers


def test_nothing_of_the_request_reaches_the_engine(locked: Served, engine: FakeEngine) -> None:
    answer = locked.post("paint", prompt="x", headers={**_as(ANNA), "cookie": "a=b", "x-secret": "c"})
    assert answer.status_code == 200 and not engine.authorizations


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_the_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(f'[anna]\nsha256 = "{digest(ANNA)}"\n[bert]\nsha256 = "{digest(BERT)}"\nconcurrency = 3\n')
    read = tokens_of(settings.load({"RYLA_TOKENS_FILE": str(file), "RYLA_TOKEN": "x"}))
    assert [(token.name, token.concurrency) for token in read] == [("default", None), ("anna", None), ("bert", 3)]
    assert digest(ANNA) == hashlib.sha256(ANNA.encode()).hexdigest() and digest(ANNA) not in repr(read)


@pytest.mark.parametrize(
    "text",
    ["[", "a = 1", '[a]\nsha256 = "x"', "[a]", f'[a]\nsha256 = "{digest("x")}"\nconcurrency = 0', "[a]\nsha = 1"],
)
def test_a_bad_file_of_tokens_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(RylaError) as caught:
        tokens_of(settings.load({"RYLA_TOKENS_FILE": str(file)}))
    assert caught.value.code == "invalid_tokens_file" and str(file) in caught.value.message


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "serve", "--json", "--host", "0.0.0.0", "--state", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "RYLA_TOKEN": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == "token_required"


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::",
     "198.18.0.1"],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are() -> None:
    assert is_public("93.184.216.34") and is_public("2606:2800:220:1:248:1893:25c8:1946")


class _Web(http.server.BaseHTTPRequestHandler):
    """Serves a picture, a redirect, too much, and takes webhooks: the first of each fails."""

    posted: list[tuple[dict[str, str], bytes]] = []

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/photo.png")
            self.end_headers()
            return
        data = photo() if self.path == "/photo.png" else bytes(33 * 2**20)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.posted.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(500 if len(self.posted) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_picture_by_url(locked: Served, engine: FakeEngine, web: str) -> None:
    def ask(url: str) -> Any:
        return locked.post("portrait", prompt="x", reference_image=url, headers=_as(ANNA))

    assert ask(f"{web}/photo.png").status_code == 200 and photo() in engine.uploads.values()
    for url, code in (
        (f"{web}/redirect", "url_refused"),
        (f"{web}/large", "image_too_large"),
        ("http://127.0.0.1:9/x", "url_refused"),
        ("http://user:password@127.0.0.1/x", "url_refused"),
        ("http://no.such.host.invalid/x", "url_refused"),
        ("http://[/x", "url_refused"),
        ("file:///etc/passwd", "unreadable_image"),
    ):
        answer = ask(url)
        assert answer.json()["code"] == code, (url, answer.text)


def test_the_end_is_told_by_a_signed_webhook_that_is_tried_again(
    locked: Served, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ryla_nodes.gateway.webhooks.DELAYS", (0.0, 0.2, 0.4))
    _Web.posted.clear()
    answer = locked.post("paint", prompt="x", seed=4, headers={**_as(ANNA), "webhook-url": f"{web}/hook"})
    assert answer.status_code == 200
    until(lambda: len(_Web.posted) == 2)
    for headers, body in _Web.posted:
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        told = json.loads(body)
        assert told["type"] == "job.succeeded" and told["data"]["seed"] == 4
        assert told["data"]["id"] == answer.headers["x-job-id"]
    assert _Web.posted[0][0]["webhook-id"] == _Web.posted[1][0]["webhook-id"]


def test_the_signature_of_the_standard_s_own_example() -> None:
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers["Webhook-Signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_needs_a_secret_and_a_public_address(gateway: Served) -> None:
    answer = gateway.post("paint", prompt="x", headers={"webhook-url": "http://127.0.0.1/"})
    assert answer.status_code == 422 and answer.json()["code"] == "webhooks_off"


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("No engine answers at http://127.0.0.1:8188: connection refused.", "No engine answers: connection refused."),
        ("http://10.0.0.3:8188/comfy restarted while it had this job.", "The engine restarted while it had this job."),
        ("No LoRA '8' in /mnt/volume/loras or C:\\models\\loras.", "No LoRA '8' in loras or loras."),
        ("ae.safetensors is missing in /a/b/vae, /c/vae.", "ae.safetensors is missing in vae, vae."),
        ("width 100 is not a multiple of 16: the nearest are 96 and 112.", None),
        ("use 1/2 and and/or 0.3.64", None),
        ("[Errno 2] No such file: '/root/x/y.png'", "[Errno 2] No such file: 'y.png'"),
    ],
)
def test_addresses_and_folders_are_taken_out(text: str, clean: str | None) -> None:
    assert redact(text) == (clean or text)
