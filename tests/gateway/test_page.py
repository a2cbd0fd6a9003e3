"""The pages' files over HTTP: what they are, what they may do, and that nothing else is to be had."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path

import httpx
import pytest
import ryla_nodes.gateway
from gateway.served import Served

FOLDER = Path(ryla_nodes.gateway.__file__).parent / "page"
NAMES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_served_as_what_it_is(gateway: Served, name: str) -> None:
    answer = gateway.http.get(f"/page/{name}")
    assert answer.status_code == 200 and answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_speak_to_its_gateway_alone(gateway: Served, path: str) -> None:
    answer = gateway.http.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"] == TYPES["html"]
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    for link in re.findall(r'(?:src|href)="([^"#][^"]*)"', answer.text):
        assert gateway.http.get(httpx.URL(gateway.url + path).join(link).raw_path.decode()).status_code < 500, link


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_host_or_writes_markup(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w./]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function| style=", text)


def test_a_browser_that_has_a_file_is_not_sent_it_again(gateway: Served) -> None:
    for path in ("/", "/page/main.js"):
        first = gateway.http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = gateway.http.get(path, headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
        assert again.status_code == 304 and not again.content and again.headers["etag"] == first.headers["etag"]
        assert gateway.http.get(path, headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "/etc/passwd", "%2fetc%2fpasswd", "", ".", "main.js/",
     "main.js%00", "./main.js", "no.js", "__pycache__"],
)  # fmt: skip
def test_nothing_but_the_files_is_to_be_had(gateway: Served, path: str) -> None:
    # As it stands: httpx would take the dots out.
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=10)
    connection.request("GET", f"/page/{path}")
    answer = connection.getresponse()
    assert answer.status == 404 and json.load(answer)["code"] == "no_such_route"
    connection.close()


def test_a_link_elsewhere_may_lead_to_a_page_and_to_nothing_else(gateway: Served) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert gateway.http.get("/", headers=visit).status_code == 200
    assert gateway.http.get("/jobs", headers=visit).status_code == 403
    assert gateway.http.get("/", headers={**visit, "sec-fetch-dest": "iframe"}).status_code == 403
    assert gateway.http.get("/", headers={**visit, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert gateway.http.get("/", headers={**visit, "origin": "https://evil.example"}).status_code == 403
