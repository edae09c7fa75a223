"""The playground: a page at `/` that calls `/score` (docs/playground.md)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ..playground import read_page_file

# Without a key: the page holds no secret, and its calls carry the key that the user typed into it.
router = APIRouter(include_in_schema=False)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # the ETag makes a second visit cheap, and a new version is seen at once
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


@router.head("/")
@router.get("/")
async def page(request: Request) -> Response:
    return _respond(request, "index.html")


@router.head("/playground/{name}")
@router.get("/playground/{name}")
async def page_file(request: Request, name: str) -> Response:
    return _respond(request, name)


def _respond(request: Request, name: str) -> Response:
    file = read_page_file(name)
    if file is None:
        raise HTTPException(404)
    compressed = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{file.digest}-gzip"' if compressed else f'"{file.digest}"'  # each encoding has its own bytes
    headers = _HEADERS | {"ETag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if compressed else file.content, media_type=file.media_type, headers=headers)
