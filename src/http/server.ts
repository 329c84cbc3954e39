/** Health, readiness, status and metrics over HTTP, read-only, where the configuration says and nowhere else. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, isIPv6 } from "node:net";
import type { Logger } from "pino";
import { describeError } from "../pg/errors.ts";
import { METRICS_TYPE, renderMetrics } from "./metrics.ts";
import type { StatusBoard } from "./status-board.ts";

export interface HttpOptions {
  /** Port 0 takes a free one. */
  listen: { host: string; port: number };
  board: StatusBoard;
  /** What this standby is called. */
  standby: string;
  version: string;
  log: Logger;
}

export interface HttpServer {
  /** `127.0.0.1:9287` */
  readonly address: string;
  close(): Promise<void>;
}

/** The address cannot be listened on. */
export class ListenError extends Error {
  override readonly name = "ListenError";
}

interface Reply {
  status: number;
  type: string;
  body: string;
}

/** Probes, a scraper and some people; more would only be there to be there. */
const MOST_CONNECTIONS = 100;

const TEXT = "text/plain; charset=utf-8";
const text = (status: number, line: string): Reply => ({ status, type: TEXT, body: `${line}\n` });

type Route = (options: HttpOptions) => Reply | Promise<Reply>;

const ROUTES = new Map<string, Route>([
  ["/health", () => text(200, "alive")],
  [
    "/ready",
    ({ board }) => {
      const { code, line } = board.answer();
      return text(code === 0 ? 200 : 503, line);
    },
  ],
  [
    "/status",
    ({ board, standby }) =>
      board.status === null
        ? text(503, board.answer().line)
        : {
            status: 200,
            type: "application/json; charset=utf-8",
            body: `${JSON.stringify({ standby, ...board.status })}\n`,
          },
  ],
  [
    "/metrics",
    async ({ board, standby, version }) => ({
      status: 200,
      type: METRICS_TYPE,
      body: await renderMetrics(board, standby, version),
    }),
  ],
]);

/** Throws ListenError when the address cannot be had. */
export async function startHttp(options: HttpOptions): Promise<HttpServer> {
  const { listen, log } = options;
  const server = createServer({ connectionsCheckingInterval: 2_000 }, (request, response) => {
    serve(options, request, response).catch((error: unknown) => {
      log.warn(`answering ${request.url} failed: ${describeError(error)}`);
      if (!response.headersSent) send(request, response, text(500, "internal error"));
      else response.destroy();
    });
  });
  // answers are made from memory: nobody needs long to ask
  server.headersTimeout = 5_000;
  server.requestTimeout = 10_000;
  server.keepAliveTimeout = 5_000;
  // also one that has never asked for anything
  server.timeout = 15_000;
  server.maxConnections = MOST_CONNECTIONS;
  await listening(server, listen);
  server.on("error", (error) => log.warn(`HTTP: ${error.message}`));
  const { address, port } = server.address() as AddressInfo;
  return {
    address: shown(address, port),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function serve(
  options: HttpOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (isLoopback(options.listen.host) && !isLoopback(hostOf(request)))
    return send(
      request,
      response,
      text(421, "http.listen is this machine's own address: ask by localhost, 127.0.0.1 or [::1]"),
    );
  const path = (request.url ?? "/").split("?")[0] ?? "/";
  const route = ROUTES.get(path.length > 1 ? path.replace(/\/$/, "") : path);
  if (!route) return send(request, response, text(404, `there is ${[...ROUTES.keys()].join(", ")}`));
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    return send(request, response, text(405, "GET only"));
  }
  send(request, response, await route(options));
}

/** By which name it was asked for. A page from elsewhere, whose name somebody lets lead to this machine, shows itself by it. */
function hostOf({ headers }: IncomingMessage): string {
  return (headers.host ?? "localhost").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

function send(request: IncomingMessage, response: ServerResponse, { status, type, body }: Reply): void {
  response.writeHead(status, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  response.end(request.method === "HEAD" ? undefined : body);
}

function listening(server: Server, { host, port }: HttpOptions["listen"]): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(new ListenError(`http.listen = ${shown(host, port)}: ${whyNot(error)}`));
    });
    server.listen({ host, port, exclusive: true }, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });
}

function whyNot(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "EADDRINUSE":
      return "the port is in use by another process; give http.listen a free one";
    case "EACCES":
      return "this user may not listen on that port; give http.listen one above 1023";
    case "EADDRNOTAVAIL":
      return "this machine has no such address; give http.listen one of its own, or 0.0.0.0 for all";
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "the host cannot be resolved; give http.listen an address";
    default:
      return `cannot be listened on (${error.code ?? error.message})`;
  }
}

function shown(host: string, port: number): string {
  return `${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
