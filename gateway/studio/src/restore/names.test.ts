import { describe, expect, it } from "vitest";
import { restoredName, safeName, uniqueNames } from "./names";

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

describe("uniqueNames", () => {
  it("numbers what would be the same file, whatever the capitals", () => {
    expect(["a.png", "A.png", "b.png", "a.png", "a (2).png"].map(uniqueNames())).toEqual([
      "a.png",
      "A (2).png",
      "b.png",
      "a (3).png",
      "a (2) (2).png",
    ]);
  });
});

describe("safeName", () => {
  it("leaves nothing in a name that would lead out of a folder, or that a file system refuses", () => {
    expect(safeName("../../etc/a.png")).toBe("_.._etc_a.png");
    expect(safeName('C:\\x\\"y".png')).toBe("C__x__y_.png");
    expect(safeName("a\u0000b\u202egnp.exe")).toBe("a_b_gnp.exe");
    expect(safeName("CON.png")).toBe("CON_.png");
    expect(safeName("Großmutter 1923.png")).toBe("Großmutter 1923.png");
    expect(safeName("...")).toBe("photograph");
  });
});
