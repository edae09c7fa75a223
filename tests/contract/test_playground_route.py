"""The playground over HTTP: its headers, caching, setting, and that the built files are those of the sources."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

import criticrm_server.playground
from conftest import Running, StartApp

ROOT = Path(__file__).parents[2]
BUILT = Path(criticrm_server.playground.__file__).parent
SOURCES = ROOT / "service" / "playground"
PATHS = ["/", "/playground/app.js", "/playground/app.css", "/playground/licences.txt"]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_COMPRESSED_BYTES = 400_000
MAX_SOURCE_LINES = 250


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_has_the_headers_of_a_closed_page(running: Running, path: str) -> None:
    answer = await running.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == (BUILT / (path.removeprefix("/playground/").strip("/") or "index.html")).read_bytes()
    head = await running.client.head(path)
    assert head.status_code == 200
    assert {name: head.headers[name] for name in ("etag", "content-length")} == {
        name: answer.headers[name] for name in ("etag", "content-length")
    }


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_a_second_visit_transfers_nothing(running: Running, encoding: str) -> None:
    headers = {"accept-encoding": encoding}
    first = await running.client.get("/playground/app.js", headers=headers)
    assert first.headers.get("content-encoding", "identity") == encoding
    again = await running.client.get("/playground/app.js", headers={**headers, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = "identity" if encoding == "gzip" else "gzip"
    changed = {"accept-encoding": other, "if-none-match": first.headers["etag"]}
    assert (await running.client.get("/playground/app.js", headers=changed)).status_code == 200


async def test_the_page_needs_no_key_and_its_calls_do(start_app: StartApp) -> None:
    async with start_app(api_keys=("secret",)) as app:
        assert [(await app.client.get(path)).status_code for path in PATHS] == [200] * 4
        assert (await app.client.get("/v1/model")).status_code == 401


async def test_the_setting_turns_it_off(start_app: StartApp) -> None:
    async with start_app(playground=False) as app:
        for path in PATHS:
            answer = await app.client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"
        assert (await app.score(prompt="Why?", responses=["So."])).status_code == 200


@pytest.mark.parametrize("name", ["__init__.py", "app.ts", "..%2f__init__.py", "index.html.gz"])
async def test_nothing_else_of_the_folder_is_served(running: Running, name: str) -> None:
    answer = await running.client.get(f"/playground/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_it_is_not_in_the_api_document(running: Running) -> None:
    paths = (await running.client.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if path == "/" or "playground" in path]


@pytest.mark.parametrize("prefix", ["", "/critic"])
async def test_it_works_under_a_prefix(start_app: StartApp, prefix: str) -> None:
    """Whether the proxy strips the prefix or not; the page refers to its files relative to itself."""
    async with start_app(root_path="/critic") as app:
        page = await app.client.get(f"{prefix}/")
        assert 'src="./playground/app.js"' in page.text
        assert 'href="./playground/app.css"' in page.text
        assert (await app.client.get(f"{prefix}/playground/app.js")).status_code == 200


async def test_posting_to_it_is_refused(running: Running) -> None:
    answer: httpx.Response = await running.client.post("/", json={})
    assert answer.status_code == 405


def test_the_page_is_small() -> None:
    assert sum(len(gzip.compress((BUILT / name).read_bytes())) for name in ("index.html", "app.js", "app.css")) < (
        MAX_COMPRESSED_BYTES
    )


def test_its_sources_are_short_and_set_no_html() -> None:
    sources = sorted((SOURCES / "src").glob("*.ts*"))
    assert len(sources) > 20
    for path in sources:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= MAX_SOURCE_LINES, path
        for name in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "localStorage",
            "sessionStorage",
        ):
            assert name not in text, path
    assert "resolved" not in (SOURCES / "package-lock.json").read_text("utf-8")


@pytest.mark.slow
def test_the_built_files_are_those_of_the_sources(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: the playground can't be built again and compared")
    copy, out = tmp_path / "playground", tmp_path / "built"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules"))
    install = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=copy, capture_output=True, text=True)
    if install.returncode != 0:
        pytest.skip(f"npm ci failed, as without a package registry: {install.stderr[-300:]}")
    subprocess.run([npm, "run", "check"], cwd=copy, check=True, capture_output=True)
    subprocess.run([npm, "run", "build", "--", str(out)], cwd=copy, check=True, capture_output=True)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["app.css", "app.js", "index.html", "licences.txt"]
    for name in names:
        assert (out / name).read_bytes() == (BUILT / name).read_bytes(), f"{name}: run make page"
