import { expect, it } from "vitest";
import type { Health, NetworkRole } from "../api/types";
import { memoryOf, missingOf } from "./missing";

const LOAD = { running: 0, queue_depth: 0, queue_capacity: 8, image_workers: 1, image_workers_busy: 0, image_queue_depth: 0 };

function health(values: Partial<Health>): Health {
  return { restores_only: false, generator_load: LOAD, restorer_load: LOAD, ...values } as Health;
}

const network = (service: "generator" | "restorer", role: NetworkRole) => ({ service, role, name: role });

it("names the roles that no network has", () => {
  const networks = [
    ...(["base", "refiner", "upscaler"] as const).map((role) => network("generator", role)),
    ...(["detector", "codeformer", "identity"] as const).map((role) => network("restorer", role)),
  ];
  expect(missingOf(health({ networks }))).toEqual({ away: [], roles: ["parser"] });
});

it("says that a service is away rather than what it would have", () => {
  const networks = (["base", "refiner", "upscaler"] as const).map((role) => network("generator", role));
  expect(missingOf(health({ networks, restorer_load: null }))).toEqual({ away: ["restorer"], roles: [] });
});

it("misses no generator where there is none on purpose", () => {
  const networks = (["detector", "codeformer", "parser", "identity"] as const).map((role) => network("restorer", role));
  expect(missingOf(health({ restores_only: true, generator_load: null, networks }))).toEqual({ away: [], roles: [] });
});

it("reads memory as the gateway writes it", () => {
  expect(memoryOf("12.5GB / 24.0GB")).toEqual({ free: "12.5 GB", total: "24.0 GB" });
  expect(memoryOf("none")).toBeNull();
});
