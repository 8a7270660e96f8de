/** What went wrong with a request, in the words of the gateway where it has answered. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly fields: { field: string; message: string }[];
  readonly retryAfterSeconds: number | null;

  /** `status`: of HTTP; 0 if there was no answer. `code`: the gateway's, or `offline`. */
  constructor(
    status: number,
    code: string,
    message: string,
    fields: { field: string; message: string }[] = [],
    retryAfterSeconds: number | null = null,
  ) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.fields = fields;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** The gateway does not answer: the network is away, or the process. */
  get isOffline(): boolean {
    return this.status === 0;
  }

  /** It may work if the same is asked for again, later. */
  get isTemporary(): boolean {
    return this.isOffline || this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** Read an answer that is no success; whatever is in front of the gateway may have written it. */
export async function problemOf(response: Response): Promise<Problem> {
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text);
    return new Problem(response.status, error.code, error.message, error.fields ?? [], retryAfter);
  } catch {
    const said = text.trimStart().startsWith("<") ? "" : text.trim().slice(0, 200);
    const message = said || response.statusText || `HTTP ${response.status}`;
    return new Problem(response.status, `http_${response.status}`, message, [], retryAfter);
  }
}
