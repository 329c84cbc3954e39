/** The server that our standby streams from, when primary.dsn leads elsewhere: the standby between, of a cascade. */
import type { UpstreamUnknown, UpstreamView } from "../domain/observation.ts";
import type { StandbyLook } from "../observe/standby.ts";
import { observeUpstream } from "../observe/upstream.ts";
import { describeError } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import type { PrimaryLink } from "./links.ts";

/** How soon a server that could not be asked is asked again. */
const ASK_AGAIN_MS = 10_000;

export class UpstreamLink {
  readonly #primary: PrimaryLink;
  #session: PgSession | null = null;
  /** Where the standby streams from, by which slot and walreceiver: what was found out of it holds as long. */
  #key = "";
  #kind: "unknown" | "primary" | "standby" = "unknown";
  #failed: { unknown: UpstreamUnknown; at: number } | null = null;

  constructor(primary: PrimaryLink) {
    this.#primary = primary;
  }

  /**
   * The standby between; null when our standby streams from the primary itself, or from nobody. The primary's session must be there: who may ask
   * it may ask the one between. Throws when that one has answered before and does not now.
   */
  async look(known: StandbyLook): Promise<UpstreamView | UpstreamUnknown | null> {
    const { sender } = known;
    if (sender === null || this.#primary.leadsTo(sender)) {
      await this.close();
      return null;
    }
    const key = JSON.stringify([sender, known.view.primarySlotName]);
    if (key !== this.#key) {
      await this.close();
      this.#key = key;
    }
    if (this.#kind === "primary") return null;
    if (this.#failed && performance.now() - this.#failed.at < ASK_AGAIN_MS) return this.#failed.unknown;
    const target = `${sender.host}:${sender.port}`;
    try {
      if (!this.#session?.usable) this.#session = await this.#primary.openAt(sender, "upstream");
      const view = await observeUpstream(this.#session, known.view.primarySlotName ?? "");
      this.#failed = null;
      this.#kind = view === null ? "primary" : "standby";
      if (view === null) {
        await this.#closeSession();
        // the primary by another address, or another primary
        await this.#primary.watch(sender);
      }
      return view;
    } catch (error) {
      await this.#closeSession();
      if (this.#kind === "standby")
        throw new Error(`${target}, the standby that this one streams from, does not answer`, {
          cause: error,
        });
      this.#failed = { unknown: { target, why: describeError(error) }, at: performance.now() };
      return this.#failed.unknown;
    }
  }

  async #closeSession(): Promise<void> {
    await this.#session?.close();
    this.#session = null;
  }

  async close(): Promise<void> {
    await this.#closeSession();
    this.#key = "";
    this.#kind = "unknown";
    this.#failed = null;
  }
}
