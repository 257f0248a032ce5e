"""ClickHouse's HTTP interface over the embedded engine, as far as its clients use it.

Every request gets an engine handle of its own, which costs 0.3 ms while another is open, a session keeps one: no
settings, database or temporary table of one reaches another. Unlike a server it has no users, refuses `compress` and
`decompress` (ClickHouse's own frames) and external tables, and only gives query_id back.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from vdx_udf import native
from vdx_udf.http_coding import CODINGS, compressor, decompressor
from vdx_udf.http_statement import HEAD, Insert, insert_of, only_reads, output_format, selects

# Parameters of the interface itself; any other one is a setting of the query.
PARAMETERS = {
    "query", "database", "default_format", "user", "password", "query_id", "session_id", "session_timeout", "session_check",
    "compress", "decompress", "buffer_size", "wait_end_of_query", "quota_key", "role", "client_protocol_version",
    "enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms",
}  # fmt: skip
# Formats of which ClickHouse's blocks, one after the other, make the whole: sent as they come.
STREAMED = {"Native", "TabSeparated", "TSV", "TSVRaw", "CSV", "RowBinary", "JSONEachRow", "JSONCompactEachRow", "RawBLOB"}
STATUS = {  # of ClickHouse's error codes, as its own interface answers them; 500 for any other
    code: status
    for status, codes in (
        (400, (6, 26, 27, 36, 38, 41, 42, 43, 44, 53, 62, 69, 70, 72, 117, 130, 131, 386, 456, 457)),
        (403, (164, 497)),
        (404, (46, 47, 50, 56, 60, 73, 81, 115, 372)),
        (408, (159, 209)),
        (501, (48,)),
    )
    for code in codes
}
SESSION_SECONDS = 60  # that a session is kept without a request, where the client names no other time


Compress = Callable[[bytes | None], bytes]


class HttpError(Exception):
    """An answer that is an error, worded as ClickHouse does."""

    def __init__(self, code: int, name: str, text: str):
        super().__init__(f"Code: {code}. DB::Exception: {text} ({name})")


class Interrupted(Exception):
    """Breaks the connection off, after an error within an answer that had begun: its end is the only sign that is left."""


class Session:
    """A handle that outlives its request; for one request at a time."""

    def __init__(self, handle: Any):
        self.handle, self.lock, self.expires = handle, threading.Lock(), 0.0


class Sessions:
    """The sessions by name; those that were not used for their time are closed when the next request comes."""

    def __init__(self, connect: Callable[[], Any]):
        self._connect, self._guard = connect, threading.Lock()
        self._open: dict[str, Session] = {}

    def take(self, name: str, must_exist: bool) -> Session:
        """The session, locked. Raises HttpError where another request holds it, or where it is not there but must be."""
        with self._guard:
            for each in [each for each, session in self._open.items() if session.expires < time.monotonic()]:
                if self._open[each].lock.acquire(blocking=False):
                    self._open.pop(each).handle.close()
            if name not in self._open:
                if must_exist:
                    raise HttpError(372, "SESSION_NOT_FOUND", f"Session {name} not found")
                self._open[name] = Session(self._connect())
            session = self._open[name]
            if not session.lock.acquire(blocking=False):
                raise HttpError(373, "SESSION_IS_LOCKED", f"Session {name} is locked by a concurrent client")
            return session


class Lease:
    """The engine handle of one request, with its database and settings; `close` gives it back as it was."""

    def __init__(self, connect: Callable[[], Any], sessions: Sessions, given: dict[str, str], database: str):
        self._restore: list[str] = []
        self._seconds = float(given.get("session_timeout") or SESSION_SECONDS)
        name = given.get("session_id", "")
        self._session = sessions.take(name, given.get("session_check") == "1") if name else None
        self.handle = self._session.handle if self._session else connect()
        try:
            if database:
                self._change(lambda value: f"USE {_name(value)}", database, "SELECT currentDatabase()")
            for key, value in given.items():
                if key not in PARAMETERS and not key.startswith("param_"):
                    statement = partial(_set, _setting(key))
                    self._change(statement, value, f"SELECT value FROM system.settings WHERE name = '{key}'")
        except BaseException:
            self.close()
            raise

    def _change(self, statement: Callable[[str], str], value: str, now: str) -> None:
        """Sets a value; in a session the one that `now` asks for comes back at the end."""
        if self._session and (before := self.handle.query(now, "RawBLOB").bytes().decode()):
            self._restore.append(statement(before))
        self.handle.query(statement(value))

    def close(self) -> None:
        if not self._session:
            self.handle.close()
            return
        for statement in reversed(self._restore):
            self.handle.query(statement)
        self._session.expires = time.monotonic() + self._seconds
        self._session.lock.release()


class Rows(StreamingResponse):
    """An answer that is sent as it is found; `worded` puts an error into ClickHouse's words.

    The query and the lease end before the last byte is sent, so that the client's next request finds its session free, or
    when the client goes away.
    """

    def __init__(self, lease: Lease, stream: Any, first: Any, compress: Compress, worded: Callable, headers: dict[str, str]):
        super().__init__(self._pieces(first), headers=headers)
        self._lease, self._stream, self._compress, self._worded = lease, stream, compress, worded

    async def _pieces(self, chunk: Any) -> AsyncIterator[bytes]:
        try:
            while chunk is not None:
                yield self._compress(chunk.bytes())
                chunk = await run_in_threadpool(self._stream.fetch)
        except Exception as error:
            await run_in_threadpool(self._end)
            yield self._compress(f"\n{self._worded(error)}\n".encode()) + self._compress(None)
            raise Interrupted from None
        await run_in_threadpool(self._end)
        yield self._compress(None)

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._end)

    def _end(self) -> None:
        if self._lease:
            lease, self._lease = self._lease, None
            with suppress(Exception):
                self._stream.close()
            lease.close()


class Interface:
    """Answers requests; `connect()` opens a handle of the engine."""

    def __init__(self, connect: Callable[[], Any]):
        self._connect, self._sessions = connect, Sessions(connect)
        # Never closed: with its last handle the engine stops, and starting it for each request takes 0.1 s.
        self._kept = connect()
        about = self._kept.query("SELECT displayName(), serverTimezone(), version()", "JSONCompactEachRow").bytes()
        name, zone, self._version = json.loads(about)
        self._headers = {"X-ClickHouse-Server-Display-Name": name, "X-ClickHouse-Timezone": zone}

    def routes(self) -> list[Route]:
        return [Route("/", self.answer, methods=["GET", "POST"]), Route("/ping", self.ping, methods=["GET"])]

    async def ping(self, request: Request) -> Response:
        return PlainTextResponse("Ok.\n")

    async def answer(self, request: Request) -> Response:
        """A query's result, streamed where its format allows it, or what an INSERT wrote."""
        headers = self._headers | {"X-ClickHouse-Query-Id": request.query_params.get("query_id") or str(uuid.uuid4())}
        try:
            return await self._answer(request, headers)
        except Exception as error:  # chDB raises several kinds, all with ClickHouse's own text
            text = self._worded(error)
            code = int(found[1]) if (found := re.match(r"Code: (\d+)", text)) else 1002
            headers.pop("Content-Encoding", None)
            headers |= {"X-ClickHouse-Exception-Code": str(code)}
            return PlainTextResponse(text + "\n", STATUS.get(code, 500), headers)

    async def _answer(self, request: Request, headers: dict[str, str]) -> Response:
        given = dict(request.query_params)
        if given.get("compress", "0") != "0" or given.get("decompress", "0") != "0":
            raise HttpError(48, "NOT_IMPLEMENTED", "compress and decompress: use Accept-Encoding and Content-Encoding here")
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HttpError(48, "NOT_IMPLEMENTED", "external tables are not supported here")
        coding = request.headers.get("content-encoding", "")
        if coding not in CODINGS:
            raise HttpError(48, "NOT_IMPLEMENTED", f"Content-Encoding {coding[:20]!r} is not supported here")
        body = decompressor(request.stream(), coding)
        statement = given.get("query", "").encode()
        insert = insert_of(statement)
        if insert is None:  # then the body is or continues the statement, and maybe holds data behind it
            statement, ended = await _more(statement, body, HEAD)
            insert = insert_of(statement)
            if insert is None and not ended:
                statement, _ = await _more(statement, body, None)
        if not statement.strip():
            return PlainTextResponse("Ok.\n", headers=headers)
        if request.method == "GET" and not only_reads(statement):
            text = "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use"
            raise HttpError(164, "READONLY", f"{text} method POST for modifying queries.")
        database = given.get("database") or request.headers.get("x-clickhouse-database", "")
        lease = await run_in_threadpool(Lease, self._connect, self._sessions, given, database)
        try:
            if insert:
                response = await _insert(lease.handle, insert, body, headers)
            else:
                response = await run_in_threadpool(self._query, request, given, lease, statement, headers)
        except BaseException:
            await run_in_threadpool(lease.close)
            raise
        if not isinstance(response, Rows):  # which close it at their end
            await run_in_threadpool(lease.close)
        return response

    def _query(self, request: Request, given: dict, lease: Lease, statement: bytes, headers: dict[str, str]) -> Response:
        text, parameters = statement.decode(), {name[6:]: value for name, value in given.items() if name.startswith("param_")}
        wanted = given.get("default_format") or request.headers.get("x-clickhouse-format") or "TabSeparated"
        kind = output_format(statement) or wanted
        headers["X-ClickHouse-Format"] = kind
        may_compress = given.get("enable_http_compression") == "1"
        coding, compress = compressor(request.headers.get("accept-encoding", "") if may_compress else "")
        if coding:
            headers["Content-Encoding"] = coding
        if kind not in STREAMED or not selects(statement):
            result = lease.handle.query(text, kind, parameters)
            headers["X-ClickHouse-Summary"] = _summary(
                read_rows=result.storage_rows_read(), read_bytes=result.storage_bytes_read(), result_rows=result.rows_read(),
                result_bytes=result.size(), elapsed_ns=round(result.elapsed() * 1e9),
            )  # fmt: skip
            return Response(compress(result.bytes()) + compress(None), headers=headers)
        stream = lease.handle.send_query(text, kind, parameters)
        first = stream.fetch()  # an error before the first rows still has a status of its own
        if first is None:
            empty = _empty_block(lease.handle, text, parameters) if kind == "Native" else b""
            return Response(compress(empty) + compress(None), headers=headers)
        return Rows(lease, stream, first, compress, self._worded, headers)

    def _worded(self, error: Exception) -> str:
        text = str(error)
        return f"{text[max(0, text.find('Code: ')) :].strip()} (version {self._version})"


async def _more(statement: bytes, body: AsyncIterator[bytes], most: int | None) -> tuple[bytes, bool]:
    """The statement with more of the body, up to about `most` bytes, and whether the body has ended."""
    pieces = [statement, b"\n"] if most and statement else [statement]
    size = len(statement)
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if most and size >= most:
            return b"".join(pieces), False
    return b"".join(pieces), True


async def _insert(handle: Any, insert: Insert, body: AsyncIterator[bytes], headers: dict[str, str]) -> Response:
    inserter = await run_in_threadpool(handle.send_insert, insert.head, insert.format)
    try:
        if insert.data:
            await run_in_threadpool(inserter.append, insert.data)
        async for piece in body:
            await run_in_threadpool(inserter.append, piece)
        done = await run_in_threadpool(inserter.finish)
    finally:
        with suppress(RuntimeError):
            inserter.cancel()
    headers["X-ClickHouse-Summary"] = _summary(
        written_rows=done.rows_written, written_bytes=done.bytes_written, elapsed_ns=round(done.elapsed * 1e9)
    )
    return Response(headers=headers)


def _summary(**counts: int) -> str:
    known = ("read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows", "result_bytes", "elapsed_ns")
    return json.dumps({name: str(counts.get(name, 0)) for name in known})


def _empty_block(handle: Any, text: str, parameters: dict[str, str]) -> bytes:
    """A Native block of no rows with the columns of a query that found none, as a server sends it."""
    bare = re.sub(r"\bFORMAT\s+Native\s*;?\s*$", "", text, flags=re.IGNORECASE)
    answer = handle.query(bare, "JSONCompact", parameters).bytes()
    if not answer:  # no query with a result
        return b""
    parts = [native.varint(len(columns := json.loads(answer)["meta"])), native.varint(0)]
    for label in (column[key].encode() for column in columns for key in ("name", "type")):
        parts += [native.varint(len(label)), label]
    return b"".join(parts)


def _setting(name: str) -> str:
    if not re.fullmatch(r"\w+", name):
        raise HttpError(115, "UNKNOWN_SETTING", f"Unknown setting {name!r}")
    return name


def _name(database: str) -> str:
    return "`" + database.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _set(name: str, value: str) -> str:
    return f"SET {name} = '" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
