import { describe, expect, it } from "vitest";
import {
  describeError,
  endsTheSession,
  isPgError,
  SessionLostError,
  SQLSTATE,
  sqlStateOf,
} from "../../src/pg/errors.ts";

const fromServer = (code: string, message: string, more: object = {}) =>
  Object.assign(new Error(message), { code, severity: "ERROR", ...more });

describe("errors", () => {
  it("the SQLSTATE is found through wrappers and gathered errors", () => {
    const server = fromServer("42704", "no such slot");
    expect(sqlStateOf(server)).toBe("42704");
    expect(sqlStateOf(new Error("a", { cause: new Error("b", { cause: server }) }))).toBe("42704");
    expect(sqlStateOf(new AggregateError([new Error("x"), server]))).toBe("42704");
    expect(isPgError(new Error("a", { cause: server }), SQLSTATE.undefinedObject, "55000")).toBe(true);
    expect(isPgError(server, SQLSTATE.objectInUse)).toBe(false);
  });

  it("a code of Node's is no SQLSTATE, even where it looks like one", () => {
    expect(sqlStateOf(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }))).toBeUndefined();
    expect(isPgError(undefined)).toBe(false);
  });

  it("a chain that bites its own tail ends", () => {
    const a = new Error("a");
    a.cause = new Error("b", { cause: a });
    expect(describeError(a)).toBe("a: b");
    expect(sqlStateOf(a)).toBeUndefined();
  });

  it("one line, outermost first, nothing twice", () => {
    const server = fromServer("42501", "permission denied\nfor function", { detail: "ask for it" });
    const error = new Error('advancing slot "a"', { cause: server });
    expect(describeError(error)).toBe(
      'advancing slot "a": permission denied for function (SQLSTATE 42501): ask for it',
    );
    expect(describeError(new Error("same", { cause: new Error("same") }))).toBe("same");
    expect(describeError(Object.assign(new Error(""), { code: "ECONNREFUSED" }))).toBe("ECONNREFUSED");
    expect(describeError("text")).toBe("text");
    expect(describeError({})).toBe("unknown error");
  });

  it("a server that shuts down ends the session, a cancelled statement does not", () => {
    expect(endsTheSession(fromServer(SQLSTATE.adminShutdown, "x"))).toBe(true);
    expect(endsTheSession(fromServer(SQLSTATE.queryCanceled, "x"))).toBe(false);
    expect(new SessionLostError("x", "timeout").reason).toBe("timeout");
  });
});
