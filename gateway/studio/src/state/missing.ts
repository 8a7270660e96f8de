/** What is not loaded, by what the gateway says of itself. */
import type { Health, NetworkRole } from "../api/types";

export const SERVICES = ["generator", "restorer"] as const;
export type Service = (typeof SERVICES)[number];

/** Roles whose absence is told, with the service that would have them. */
const EXPECTED = {
  base: "generator",
  refiner: "generator",
  upscaler: "generator",
  detector: "restorer",
  codeformer: "restorer",
  parser: "restorer",
  identity: "restorer",
} as const satisfies Partial<Record<NetworkRole, Service>>;
export type Role = keyof typeof EXPECTED;

export interface Missing {
  away: Service[];
  roles: Role[];
}

/** Services that do not answer, and roles that no network of the others has. */
export function missingOf(health: Health): Missing {
  const load = { generator: health.generator_load, restorer: health.restorer_load };
  const present = SERVICES.filter((service) => !(health.restores_only && service === "generator"));
  const away = present.filter((service) => load[service] === null);
  const { networks } = health;
  const answering = present.filter((service) => networks.some((network) => network.service === service));
  const roles = (Object.keys(EXPECTED) as Role[]).filter(
    (role) => answering.includes(EXPECTED[role]) && !networks.some((network) => network.role === role),
  );
  return { away, roles };
}

/** The two halves of "12.5GB / 24.0GB". */
export function memoryOf(text: string): { free: string; total: string } | null {
  const [free, total] = text.split("/").map((part) => part.trim().replace(/(\d)([A-Z])/, "$1 $2"));
  return free && total ? { free, total } : null;
}
