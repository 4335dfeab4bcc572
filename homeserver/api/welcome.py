"""The page for a person who opens the server's address in a browser."""

from html import escape

from homeserver.core.identifiers import ServerName
from homeserver.transport.endpoint import Auth, RequestInfo, Response, endpoint

_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>body {{ font: 1.1rem/1.5 sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }}
code {{ background: #eee; color: #111; padding: 0.1em 0.3em }}</style>
<h1>{name}</h1>
<p>This is a Matrix homeserver, and it is running.</p>
<p>To use it, open a Matrix client, choose to sign in at another homeserver, and give it this
address: <code>{base_url}</code></p>
<p>{accounts}</p>
</html>
"""
_OPEN = "You can make an account there."
_CLOSED = "Accounts are given by whoever runs this server."


class WelcomeAPI:
    def __init__(
        self, server_name: ServerName, *, public_base_url: str | None, is_open: bool
    ) -> None:
        """`is_open`: people may make accounts themselves."""
        self._server_name = server_name
        self._public_base_url = public_base_url
        self._is_open = is_open

    @endpoint("welcome", "GET", "/", auth=Auth.NONE, extra="a page where a person stands")
    async def welcome(self, request: RequestInfo) -> Response:
        page = _PAGE.format(
            name=escape(self._server_name),
            base_url=escape(self._public_base_url or request.base_url),
            accounts=_OPEN if self._is_open else _CLOSED,
        )
        return Response(page.encode(), "text/html; charset=utf-8", headers=_HEADERS)
