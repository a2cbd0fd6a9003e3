"""Every example of docs/api.md, run as it stands against ``ryla serve`` on the embedded engine."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ryla_nodes
from gateway.process import ServeProcess
from gateway.served import until
from PIL import Image
from ryla_nodes.errors import REGISTRY
from ryla_nodes.gateway import responses

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ADDRESS, RECEIVER = "http://127.0.0.1:8190", "http://127.0.0.1:9000"
SECRET, TOKEN = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0", "the-token"
STARTING = {
    "gateway_not_installed", "invalid_tokens_file", "invalid_setting", "gateway_running", "job_store_newer",
    "port_in_use", "engine_cannot_listen", "comfyui_start_failed", "comfyui_crashed", "not_writable",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A code block of the page, with the title of its section."""

    section: str
    language: str
    code: str
    line: int


def _examples() -> list[Example]:
    found, section = [], ""
    text = PAGE.read_text(encoding="utf-8")
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        section = match[1] or section
        if match[2] in ("bash", "python", "javascript"):
            found.append(Example(section, match[2], match[3], text.count("\n", 0, match.start()) + 1))
    return found


EXAMPLES = _examples()
RUN = [each for each in EXAMPLES if not (each.section == "Webhooks" and each.language != "bash")]


def _name(example: Example) -> str:
    return f"{example.section}-{example.language}".replace(" ", "-")


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the JavaScript examples are not run")
    return node


class Receiver:
    """Takes webhooks and keeps them: headers by lower-case name, and the body."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_flux

    home = tmp_path_factory.mktemp("home")
    tiny_flux.ensure(home / "models")
    return home


@pytest.fixture(scope="module")
def gateway(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    environment = {"RYLA_HOME": str(home), "OMP_NUM_THREADS": "1", "RYLA_WEBHOOK_SECRET": SECRET}
    arguments = ["--allow-private-urls", "--timeout", "120"]
    with ServeProcess(tmp_path_factory.mktemp("examples") / "state", arguments, environment) as process:
        process.until_ready()
        yield process


@pytest.fixture(scope="module")
def guarded(gateway: ServeProcess, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A second gateway, which asks for a token."""
    environment = {"RYLA_HOME": str(home), "RYLA_TOKEN": TOKEN}
    arguments = ["--server", "http://127.0.0.1:9"]
    with ServeProcess(tmp_path_factory.mktemp("guarded") / "state", arguments, environment) as process:
        yield process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run, with the photo that some of them send."""
    from face_models import portrait

    here = tmp_path_factory.mktemp("here")
    portrait(3, 320).save(here / "person.jpg", quality=95)
    return here


def _run(example: Example, folder: Path, url: str, receiver: Receiver) -> subprocess.CompletedProcess[str]:
    code = example.code.replace(ADDRESS, url).replace(RECEIVER, receiver.url)
    suffix, command = {
        "bash": (".sh", ["bash", "-euo", "pipefail"]),
        "python": (".py", [sys.executable]),
        "javascript": (".mjs", [_node()] if example.language == "javascript" else []),
    }[example.language]
    script = folder / f"line-{example.line}{suffix}"
    script.write_text(code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"RYLA_TOKEN": TOKEN} if example.section == "Tokens" else {}
    return subprocess.run(
        [*command, str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("example", RUN, ids=_name)
def test_it_runs(
    example: Example, folder: Path, gateway: ServeProcess, receiver: Receiver, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("guarded").url if example.section == "Tokens" else gateway.url
    for old in folder.glob("*.jpg"):
        if old.name != "person.jpg":
            old.unlink()
    done = _run(example, folder, url, receiver)
    assert done.returncode == 0, f"line {example.line}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    pictures = [path for path in folder.glob("*.jpg") if path.name != "person.jpg"]
    assert len(pictures) >= ("jpg" in example.code.replace("person.jpg", "")) and "Error" not in done.stderr
    for path in pictures:
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.size == (256, 256), path.name
    if example.section == "Webhooks":
        until(lambda: bool(receiver.taken), 30)


def test_each_section_has_all_three_languages() -> None:
    sections: dict[str, set[str]] = {}
    for example in EXAMPLES:
        sections.setdefault(example.section, set()).add(example.language)
    alone = sections.pop("Clients")
    assert alone == {"python"} and len(sections) >= 10
    assert all(languages == {"bash", "python", "javascript"} for languages in sections.values()), sections


# --- webhooks ---------------------------------------------------------------------------------------------------------


def _python_verify(headers: dict[str, str], body: bytes, secret: str) -> bool:
    (example,) = [each for each in EXAMPLES if (each.section, each.language) == ("Webhooks", "python")]
    scope: dict[str, Callable[..., bool]] = {}
    exec(compile(example.code, "api.md", "exec"), scope)  # noqa: S102 - our own page
    return scope["verify"](secret, headers, body)


def _javascript_verify(headers: dict[str, str], body: bytes, secret: str) -> bool:
    (example,) = [each for each in EXAMPLES if (each.section, each.language) == ("Webhooks", "javascript")]
    told = json.dumps([secret, headers, body.decode()])
    call = f"\nconst [secret, headers, body] = {told};\nconsole.log(verify(secret, headers, Buffer.from(body)));\n"
    command = [_node(), "--input-type=module", "-e", example.code + call]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip() == "true"


@pytest.mark.parametrize("verify", [_python_verify, _javascript_verify])
def test_the_signature_code_tells_true_from_false(
    verify: Callable[[dict[str, str], bytes, str], bool], gateway: ServeProcess, receiver: Receiver, folder: Path
) -> None:
    if not receiver.taken:
        (example,) = [each for each in RUN if each.section == "Webhooks"]
        assert _run(example, folder, gateway.url, receiver).returncode == 0
        until(lambda: bool(receiver.taken), 60)
    headers, body = receiver.taken[0]
    assert json.loads(body)["type"] == "job.succeeded" and "result" in json.loads(body)["data"]
    assert verify(headers, body, SECRET)
    assert not verify(headers, body + b" ", SECRET)
    assert not verify(headers, body, "whsec_YW5vdGhlcg==")
    assert not verify({**headers, "webhook-timestamp": "1700000000"}, body, SECRET)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_table_of_codes_is_the_registry() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 30
    for status, code, meaning in rows:
        assert (REGISTRY[code].http_status, REGISTRY[code].meaning) == (int(status), meaning), code
    raised = set()
    for path in (Path(ryla_nodes.__file__).parent / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RylaError":
                raised.add(node.args[0].value)  # type: ignore[attr-defined]
    assert raised - STARTING <= {code for _, code, _ in rows}


def test_the_table_of_headers_is_complete() -> None:
    source = Path(responses.__file__).read_text(encoding="utf-8")
    sent = set(re.findall(r'"(X-[\w-]+|Server-Timing)"', source))
    told = set(re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(sent) >= 9 and sent <= told
