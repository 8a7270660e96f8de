import { describe, expect, it } from "vitest";
import { clamp, fit, LARGEST, pan, zoomBy } from "./zoom";

const picture = { width: 1000, height: 500 };
const window = { width: 500, height: 500 };

describe("fit", () => {
  it("shows all of a large picture", () => {
    expect(fit(picture, window)).toEqual({ scale: 0.5, x: 500, y: 250 });
  });
  it("does not enlarge a small one", () => {
    expect(fit({ width: 50, height: 50 }, window).scale).toBe(1);
  });
  it("survives a window without a size", () => {
    expect(fit(picture, { width: 0, height: 0 }).scale).toBe(1);
  });
});

describe("zoomBy", () => {
  it("keeps the point under the pointer", () => {
    const before = { scale: 1, x: 500, y: 250 };
    const at = { x: 100, y: -50 };
    const after = zoomBy(before, 2, at, picture, window);
    expect(after.x + at.x / after.scale).toBeCloseTo(before.x + at.x / before.scale);
    expect(after.y + at.y / after.scale).toBeCloseTo(before.y + at.y / before.scale);
  });
  it("goes no further out than all of it, and no further in than the largest scale", () => {
    const whole = fit(picture, window);
    expect(zoomBy(whole, 0.1, { x: 0, y: 0 }, picture, window)).toEqual(whole);
    expect(zoomBy(whole, 1000, { x: 0, y: 0 }, picture, window).scale).toBe(LARGEST);
  });
});

describe("pan", () => {
  it("moves with the pointer, up to the edge", () => {
    const zoom = { scale: 1, x: 500, y: 250 };
    expect(pan(zoom, 100, 0, picture, window).x).toBe(400);
    expect(pan(zoom, 10_000, 0, picture, window).x).toBe(250);
    expect(pan(zoom, -10_000, 0, picture, window).x).toBe(750);
  });
});

describe("clamp", () => {
  it("centers what is smaller than the window", () => {
    expect(clamp({ scale: 0.5, x: 0, y: 0 }, picture, window)).toEqual({ scale: 0.5, x: 500, y: 250 });
  });
});
