import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { releasePort, reservePort } from "../../src/sandbox/ports.ts";

/** What a proxy does with its traffic. */
type Mode = "open" | "cut" | "half-open";

const HOST = "127.0.0.1";
const proxies = new Set<TcpProxy>();

/** The proxies of this process that were not closed. */
export function openProxies(): TcpProxy[] {
  return [...proxies];
}

/** Starts a proxy on a loopback port; `targetHost` is loopback too when left out. */
export async function startProxy(target: { targetPort: number; targetHost?: string }): Promise<TcpProxy> {
  const proxy = new TcpProxy(await reservePort(), {
    host: target.targetHost ?? HOST,
    port: target.targetPort,
  });
  await proxy.restore();
  proxies.add(proxy);
  return proxy;
}

/** A TCP connection between a server and its client that can be made bad in the ways networks are. */
export class TcpProxy {
  readonly host = HOST;
  readonly port: number;
  readonly #pairs = new Set<Pair>();
  #target: { host: string; port: number };
  #server: net.Server | undefined;
  #mode: Mode = "cut";
  #delayMs = 0;

  constructor(port: number, target: { host: string; port: number }) {
    this.port = port;
    this.#target = target;
  }

  /** How many client connections it holds. */
  get connections(): number {
    return this.#pairs.size;
  }

  /** Delivers everything this much later, in both directions. */
  delay(delayMs: number): void {
    this.#delayMs = delayMs;
    for (const pair of this.#pairs) pair.delayMs = delayMs;
  }

  /** New connections go to another port (after a failover); the present ones stay. */
  retarget(port: number): void {
    this.#target = { ...this.#target, port };
  }

  /** Resets what is connected and refuses what comes, as when the other machine's network stack lives but its service does not. */
  async cut(): Promise<void> {
    this.#mode = "cut";
    for (const pair of this.#pairs) pair.reset();
    const server = this.#server;
    this.#server = undefined;
    if (server) await new Promise((resolve) => server.close(resolve));
  }

  /**
   * Accepts and keeps connections but delivers nothing, not even their end, as when packets are lost on the way.
   * What was sent meanwhile is delivered after restore(), as TCP would.
   */
  async halfOpen(): Promise<void> {
    await this.#listen();
    this.#mode = "half-open";
    for (const pair of this.#pairs) pair.hold();
  }

  /** Makes it a good network again. */
  async restore(): Promise<void> {
    await this.#listen();
    this.#mode = "open";
    for (const pair of this.#pairs) pair.release(this.#target);
  }

  /** Ends it and all of its connections. */
  async close(): Promise<void> {
    await this.cut();
    proxies.delete(this);
    releasePort(this.port);
  }

  async #listen(): Promise<void> {
    if (this.#server) return;
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) =>
      this.#accept(client),
    );
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ port: this.port, host: this.host }, resolve);
    });
    this.#server = server;
  }

  #accept(client: net.Socket): void {
    const pair = new Pair(client, this.#delayMs, () => this.#pairs.delete(pair));
    this.#pairs.add(pair);
    if (this.#mode === "open") pair.release(this.#target);
  }
}

/** A client's connection and, from the first moment the network is good, the one to the server. */
class Pair {
  delayMs: number;
  readonly #client: net.Socket;
  readonly #onGone: () => void;
  #server: net.Socket | undefined;
  #held = true;
  /** one side broke while held: the other learns of it on release */
  #broken = false;

  constructor(client: net.Socket, delayMs: number, onGone: () => void) {
    this.#client = client;
    this.delayMs = delayMs;
    this.#onGone = onGone;
    this.#watch(client);
  }

  hold(): void {
    this.#held = true;
    this.#client.pause();
    this.#server?.pause();
  }

  release(target: { host: string; port: number }): void {
    this.#held = false;
    if (this.#broken) {
      this.reset();
      return;
    }
    if (!this.#server) {
      this.#server = net.connect({ ...target, allowHalfOpen: true });
      this.#watch(this.#server);
      this.#forward(this.#client, this.#server);
      this.#forward(this.#server, this.#client);
    }
    this.#client.resume();
    this.#server.resume();
  }

  reset(): void {
    // a side that never got connected has nothing to reset
    for (const socket of [this.#client, this.#server]) socket?.resetAndDestroy();
    this.#onGone();
  }

  #watch(socket: net.Socket): void {
    socket.setNoDelay(true);
    socket.on("error", () => {
      if (this.#held) this.#broken = true;
      else this.reset();
    });
    socket.on("close", () => {
      if (this.#held) this.#broken = true;
      else if (this.#client.destroyed && (this.#server?.destroyed ?? true)) this.#onGone();
    });
  }

  #forward(from: net.Socket, to: net.Socket): void {
    // one after the other, so that a delay that shrinks reorders nothing
    let last = Promise.resolve();
    const inOrder = (deliver: () => void) => {
      const due = performance.now() + this.delayMs;
      last = last.then(async () => {
        const rest = due - performance.now();
        if (rest > 0) await sleep(rest);
        if (!to.destroyed) deliver();
      });
    };
    from.on("data", (chunk) =>
      inOrder(() => {
        if (!to.write(chunk) && !this.#held) {
          from.pause();
          to.once("drain", () => this.#held || from.resume());
        }
      }),
    );
    from.on("end", () => inOrder(() => to.end()));
  }
}
