"""`vdx up`: the explorer page, and the embedded engine behind ClickHouse's HTTP interface, on this machine's own address."""

import logging
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from vdx_udf import engine, explorer
from vdx_udf.http_interface import Interface, Interrupted
from vdx_udf.install import Layout

HOST = "127.0.0.1"
OWN_NAMES = ["127.0.0.1", "localhost"]  # any other Host is a page that had its name resolve to this machine


class OwnPagesOnly:
    """Refuses what pages of other sites make a browser send: they could run SQL here."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers.get('host')}":
            refused = PlainTextResponse("pages of other sites may not send queries here\n", 403)
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def application(prefix: Path) -> Starlette:
    """The ASGI application over an installed prefix, with its tables in place. Raises InstallError."""
    client = engine.connect_embedded(prefix)
    engine.apply_schema(client, Layout.embedded(prefix).sql)
    client.close()
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=OWN_NAMES), Middleware(OwnPagesOnly)]
    page = Mount(explorer.URL, StaticFiles(directory=explorer.FOLDER, html=True))
    return Starlette(routes=[*Interface(partial(engine.open_handle, prefix)).routes(), page], middleware=guards)


def serve(prefix: Path, port: int) -> None:
    """Answers on loopback until it is interrupted."""
    # Of a query that failed within its answer the client knows; everything else is a mistake of ours and is shown.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not isinstance((record.exc_info or [0, 0])[1], Interrupted))
    ready = application(prefix)
    threading.Thread(target=_warm, args=(prefix,), daemon=True).start()
    uvicorn.run(ready, host=HOST, port=port, log_level="warning")


def _warm(prefix: Path) -> None:
    """Starts the encoder, which takes seconds, before anyone waits for it. Where it cannot, the first query says why."""
    with suppress(Exception):
        handle = engine.open_handle(prefix)
        handle.query("SELECT encode_text('')")
        handle.close()
