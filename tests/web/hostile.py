"""Hostile HTTP exchanges, as data: the bytes that a stranger sends, and how many answers they may get."""

from __future__ import annotations

from typing import Final, NamedTuple


class Exchange(NamedTuple):
    """What is sent over one connection. ``half_close``: the sender then ends its direction."""

    name: str
    data: bytes
    answers_max: int = 1
    half_close: bool = False


HOST: Final = b"Host: localhost\r\n"
END: Final = b"\r\n"
SMUGGLED: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET: Final = b"GET /health HTTP/1.1\r\n" + HOST
POST: Final = b"POST /api/v1/seeds HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"


def _lines() -> list[Exchange]:
    """Request lines that are none."""
    lines = [
        b"", b" ", b"GET", b"GET ", b"GET /", b"GET / ", b"GET / HTTP", b"GET / HTTP/", b"GET / HTTP/1", b"GET / HTTP/1.",
        b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/9.9", b"GET / http/1.1", b"GET / HTTP/1.1 x", b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1", b"get / HTTP/1.1", b"G\x00T / HTTP/1.1",
        b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%zz HTTP/1.1",
        b"GET /%ff%fe HTTP/1.1", b"GET //health HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", b"GET /api/v1/../../health HTTP/1.1", b"GET /health/ HTTP/1.1",
        b"GET /health;x HTTP/1.1", b"GET /health?%ff HTTP/1.1", b"GET ?x HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"GET http://evil.example/health HTTP/1.1", b"GET http:/// HTTP/1.1", b"GET //evil.example/health HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1", b"CONNECT / HTTP/1.1", b"TRACE / HTTP/1.1", b"TRACE /api/v1/seeds HTTP/1.1",
        b"PATCH /api/v1/seeds HTTP/1.1", b"QUERY / HTTP/1.1", b"PROPFIND / HTTP/1.1", b"M-SEARCH * HTTP/1.1",
        b"SOURCE / ICE/1.0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x2e\x01\x00\x02", b"SSH-2.0-x",
        b"EHLO x", b"\x05\x01\x00", b"\x00" * 64, b"\xff" * 64, b"{}" * 40, b"A" * 200, b"HTTP/1.1 200 OK",
    ]  # fmt: skip
    return [Exchange(f"line {line[:40]!r}", line + b"\r\n" + HOST + END) for line in lines]


def _headers() -> list[Exchange]:
    """Headers that are none, or that lie."""
    headers = [
        b"", b":", b": x", b"X", b"X:", b"X :y", b"X\t: y", b" X: y", b"\tX: y", b"X: y\r\n z", b"X: y\r\n\tz", b"X: \x00",
        b"X: \x01", b"X: \x7f", b"X: \xff\xfe", b"X\x00: y", b"X\xff: y", b"X(: y", b"X: y\nY: z", b"X: y\rY: z",
        b"X: " + b"y" * 8000, b"\r\nX: y", b"Host: localhost", b"Host: evil.example", b"Host:", b"HOST : x",
        b"Content-Length: 0\r\nContent-Length: 0", b"Authorization: Bearer a\r\nAuthorization: Bearer b",
        b"Authorization: Bearer " + b"a" * 9000, b"Authorization: Basic eHg6eHg=", b"Authorization: Bearer",
        b"Authorization: Bearer \xff", b"X-Api-Token: \xff\xfe", b"X-Api-Token: a\r\nX-Api-Token: b", b"Cookie: a=b",
        b"Origin: null", b"Origin: http://evil.example", b"Origin:", b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-For: 127.0.0.1", b"X-Original-URL: /api/v1/status", b"X-Rewrite-URL: /api/v1/status",
        b"X-HTTP-Method-Override: POST", b"Forwarded: for=127.0.0.1;host=x", b"Accept: " + b"*/*," * 1000,
        b"Accept-Encoding: gzip, br, zstd", b"Range: bytes=0-0,1-1,2-2", b"Expect: 200-ok", b"Connection: close, close",
        b"Connection: x, y, z", b"Connection: Host", b"Keep-Alive: timeout=999999", b"If-None-Match: *",
        b"Last-Event-ID: \xff", b"Content-Type: application/json; charset=\xff", b"TE: trailers", b"Trailer: Host",
        b"Proxy-Connection: keep-alive", b"Via: 1.1 x", b"Date: never", b"Max-Forwards: 0",
    ]  # fmt: skip
    return [Exchange(f"header {header[:40]!r}", GET + header + b"\r\n" + END, 2) for header in headers]


def _lengths() -> list[Exchange]:
    """Bodies whose length is in doubt: whoever believes the wrong header takes the body for a second request."""
    ambiguous = [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 6",
        b"Content-Length: 6\r\nContent-Length: 5", b"Content-Length: 6, 5", b"Content-Length: 6 5", b"Content-Length: +6",
        b"Content-Length: -6", b"Content-Length: 0x6", b"Content-Length: 6.0", b"Content-Length: six", b"Content-Length:",
        b"Content-Length: 6\x00", b"Content-Length: \xb2", b"Content-Length: 6;x", b"Content-Length: 1e1",
        b"Content-Length: 00000000000000000000000000000000000000000000000006_", b"Content-Length: 99999999999999999999999",
        b"Transfer-Encoding: Chunked, identity", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked\x00",
        b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding:\tchunked, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked, x",
        b"Transfer-Encoding: 'chunked'", b"Transfer-Encoding: \"chunked\"", b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding:\n chunked", b"X: y\nTransfer-Encoding: chunked", b"Content-Encoding: chunked",
    ]  # fmt: skip
    found = []
    for start, kind in ((POST, "post"), (GET, "get")):
        for header in ambiguous:
            data = start + header + b"\r\n\r\n0\r\n\r\n" + SMUGGLED
            both = header.count(b"Content-Length: 6") and header.count(b"Transfer-Encoding: chunked")
            found.append(Exchange(f"{kind} {header[:50]!r}", data, 1 if both else 2))
    return found


def _chunks() -> list[Exchange]:
    """Chunks that are none."""
    bodies = [
        b"", b"\r\n", b"x\r\n", b"-1\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b"1", b"1\r", b"1\r\n", b"1\r\nx", b"1\r\nxx\r\n",
        b"1\r\nx\n0\r\n\r\n", b"1\nx\n0\n\n", b"1;\r\nx\r\n0\r\n\r\n", b"1;a=b\r\nx\r\n0\r\n\r\n", b"1;" + b"a" * 9000 + b"\r\nx\r\n",
        b"1 \r\nx\r\n0\r\n\r\n", b" 1\r\nx\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\nx", b"7fffffffffffffff\r\nx",
        b"100000000\r\nx", b"0" * 5000 + b"1\r\nx\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nHost: evil\r\n\r\n", b"0\r\n\x00\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n" * 1,
        b"2\r\n{}\r\n0\r\n\r\n" + SMUGGLED, b"1\r\nx\r\n" * 2000, b"\xff\r\nx\r\n", b"1\x00\r\nx\r\n",
    ]  # fmt: skip
    start = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    return [Exchange(f"chunks {body[:30]!r}", start + body, 2) for body in bodies]


def _upgrades() -> list[Exchange]:
    """Other protocols on this port."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    websocket = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    wrong = [b"", b"////", b"AAMAAABkAAQAAP__", b"AAAA", b"\xff", b"a" * 5000]
    found = [
        Exchange("h2 preface", preface + settings),
        Exchange("h2 preface and rubbish", preface + b"\xff" * 500),
        Exchange("half an h2 preface", preface[:10], half_close=True),
        Exchange("websocket", GET + websocket + key + END),
        Exchange("websocket without a key", GET + websocket + END),
        Exchange("bytes behind a websocket upgrade", GET + websocket + key + END + b"\x81\xfe\xff\xff" + b"x" * 500, 2),
        Exchange(
            "frames behind a websocket upgrade", GET + websocket + key + END + b"\x88\x80\x00\x00\x00\x00" * 50, 2
        ),
        Exchange("websocket of an old draft", GET + b"Upgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n8bytekey", 2),
        Exchange("upgrade to everything", GET + b"Upgrade: h2c, websocket, x\r\nConnection: Upgrade\r\n" + END),
        Exchange("upgrade without connection", GET + b"Upgrade: h2c\r\n" + END),
        Exchange("connection without upgrade", GET + b"Connection: Upgrade\r\n" + END),
        Exchange("tls upgrade", GET + b"Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n" + END),
        Exchange("connect and tunnel", b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + END + b"SSH-2.0-x\r\n", 2),
    ]
    for value in wrong:
        header = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: " + value + b"\r\n"
        found.append(Exchange(f"h2c with settings {value[:20]!r}", GET + header + END))
        found.append(Exchange(f"h2c post with settings {value[:20]!r}", POST + header + b"Content-Length: 2\r\n\r\n{}"))
    return found


def _amounts() -> list[Exchange]:
    """Too much of everything."""
    many = b"".join(b"X-%d: y\r\n" % number for number in range(1_500))
    return [
        Exchange("a long target", b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + END),
        Exchange("a long query", b"GET /api/v1/seeds?" + b"a=1&" * 3_000 + b" HTTP/1.1\r\n" + HOST + END),
        Exchange("an endless header", GET + b"X: " + b"y" * 300_000),
        Exchange("an endless name", GET + b"X" * 100_000),
        Exchange("many headers", GET + many + END),
        Exchange("endless headers", GET + b"X: y\r\n" * 50_000),
        Exchange("an endless method", b"G" * 100_000),
        Exchange("empty lines", b"\r\n" * 50_000, 1),
        Exchange("line feeds", b"\n" * 50_000, 1),
        Exchange("a large body without a right", POST + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000),
        Exchange("a huge length", POST + b"Content-Length: 1000000000000\r\n\r\nx"),
        Exchange("a large body of chunks", POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65_536),
        Exchange("a body for GET", GET + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000, 1),
        Exchange("expect continue", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", 2),
        Exchange("expect continue, huge", POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", 1),
        Exchange("pipelined", SMUGGLED * 10, 10),
        Exchange("many pipelined", SMUGGLED * 500, 500),
        Exchange("pipelined and broken", SMUGGLED * 5 + b"\x00\x01\x02\r\n\r\n" + SMUGGLED * 5, 6),
        Exchange("pipelined behind close", GET + b"Connection: close\r\n\r\n" + SMUGGLED * 5, 1),
        Exchange("pipelined HTTP/1.0", b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n" + SMUGGLED * 5, 1),
        Exchange("no host", b"GET /health HTTP/1.1\r\n\r\n"),
        Exchange("no host, HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n"),
        Exchange("HTTP/0.9", b"GET /health\r\n"),
        Exchange("pipelined posts", (POST + b"Content-Length: 2\r\n\r\n{}") * 20, 20),
        Exchange("only the end of a request", END + END + END),
    ]


def _halves() -> list[Exchange]:
    """Requests that stop in the middle."""
    whole = POST + b"Authorization: Bearer x\r\nContent-Length: 30\r\n\r\n" + b'{"title":"t","command":"true"}'
    return [Exchange(f"the first {size} bytes", whole[:size], half_close=True) for size in range(1, len(whole), 5)] + [
        Exchange(f"the first {size} bytes, silent", whole[:size]) for size in range(2, len(whole), 40)
    ]


EXCHANGES: Final = [*_lines(), *_headers(), *_lengths(), *_chunks(), *_upgrades(), *_amounts(), *_halves()]
