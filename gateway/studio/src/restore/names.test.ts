import { describe, expect, it } from "vitest";
import { restoredName, unique } from "./names";

describe("restoredName", () => {
  it("keeps the photograph's name and its way to write the extension", () => {
    expect(restoredName("wedding.JPG", "image/jpeg")).toBe("wedding-restored.JPG");
    expect(restoredName("a.b.jpeg", "image/jpeg")).toBe("a.b-restored.jpeg");
    expect(restoredName("scan.png", "image/png")).toBe("scan-restored.png");
  });
  it("corrects an extension that is wrong or missing", () => {
    expect(restoredName("scan.tif", "image/png")).toBe("scan-restored.png");
    expect(restoredName("scan", "image/webp")).toBe("scan-restored.webp");
    expect(restoredName(".png", "image/png")).toBe(".png-restored.png");
    expect(restoredName("", "image/png")).toBe("photograph-restored.png");
  });
});

describe("unique", () => {
  it("numbers what would be the same file, whatever the capitals", () => {
    expect(unique(["a.png", "A.png", "b.png", "a.png", "a (2).png"])).toEqual([
      "a.png",
      "A (2).png",
      "b.png",
      "a (3).png",
      "a (2) (2).png",
    ]);
  });
});
