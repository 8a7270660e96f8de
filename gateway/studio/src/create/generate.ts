/** Asks for a drawing, and shows it. */
import { submit } from "../api/client";
import type { GenerateInput } from "../api/types";
import { putEntry } from "../store/entries";
import { learn } from "../store/jobs";
import { goTo } from "../store/route";

/** Raises `Problem`. */
export async function generate(input: GenerateInput): Promise<void> {
  const job = await submit({ type: "generate", input });
  learn(job);
  await putEntry({
    kind: "creation",
    id: job.id,
    createdAt: Date.parse(job.created_at) || Date.now(),
    expiresAt: null,
    thumbnail: null,
    input,
  });
  goTo("create", job.id);
}
