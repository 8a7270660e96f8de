/** A gateway for tests of the logic: answers what it is told to in place of `fetch`, and keeps what it was asked. */
import { vi } from "vitest";

export interface Asked {
  method: string;
  path: string;
  headers: Headers;
}
export type Answer = (asked: Asked, signal: AbortSignal | undefined) => Response | Promise<Response>;

export function gateway(answer: Answer): Asked[] {
  const asked: Asked[] = [];
  vi.stubGlobal("fetch", (url: URL, options: RequestInit) => {
    const { pathname } = new URL(url);
    const one = { method: options.method ?? "GET", path: pathname, headers: new Headers(options.headers) };
    asked.push(one);
    try {
      return Promise.resolve(answer(one, options.signal ?? undefined));
    } catch (error) {
      return Promise.reject(error as Error);
    }
  });
  return asked;
}

export function json(body: unknown, status = 200): Response {
  return new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });
}

/** An error as the gateway writes it. */
export function refusal(status: number, code = `e${status}`): Response {
  return json({ success: false, error: { code, message: `no: ${status}` } }, status);
}
