// Questions to the gateway's REST interface.

const PATIENCE_MS = 30_000;

/** A problem document of the server's (RFC 9457), or that it did not answer (status 0). */
export class Refused extends Error {
  constructor(status, detail, nearest = []) {
    super(detail);
    this.status = status;
    this.nearest = nearest;
  }
}

export class Rest {
  /** `needsKey` is called when the server wants a key, or another one. */
  constructor(needsKey) {
    this.key = sessionStorage.getItem("ssmd.key") ?? "";
    this.asked = 0;
    this.#needsKey = needsKey;
  }

  #needsKey;

  useKey(key) {
    this.key = key;
    sessionStorage.setItem("ssmd.key", key); // until the tab is closed
  }

  /** The answer of `path`, whose names are escaped already. Raises Refused, or AbortError. */
  async get(path, query = {}, signal = undefined) {
    const url = new URL(path, location.origin);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== "") url.searchParams.set(name, value);
    }
    const { key } = this;
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const limit = AbortSignal.timeout(PATIENCE_MS);
    this.asked += 1;
    let response;
    try {
      response = await fetch(url, { headers, signal: signal ? AbortSignal.any([signal, limit]) : limit });
      if (response.ok) return await response.json();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused(0, error.name === "TimeoutError" ? "the gateway takes too long" : "the gateway does not answer");
    }
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401 && key !== this.key) return this.get(path, query, signal); // there is another one by now
    if (response.status === 401) this.#needsKey(problem.detail ?? "");
    throw new Refused(response.status, problem.detail ?? problem.title ?? `HTTP ${response.status}`, problem.nearest ?? []);
  }
}

export function market(symbol) {
  return `/v1/markets/${encodeURIComponent(symbol)}`;
}
