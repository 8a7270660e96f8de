import { describe, expect, it } from "vitest";
import { kindOfFile } from "./kind-of-file";

const file = (...bytes: (string | number)[]) =>
  new Blob([new Uint8Array(bytes.flatMap((each) => (typeof each === "number" ? [each] : [...each].map((c) => c.charCodeAt(0)))))]);

describe("kindOfFile", () => {
  it("goes by what is in the file", async () => {
    expect(await kindOfFile(file(0x89, "PNG\r\n", 0x1a, "\n rest"))).toEqual({ mediaType: "image/png" });
    expect(await kindOfFile(file(0xff, 0xd8, 0xff, 0xe0))).toEqual({ mediaType: "image/jpeg" });
    expect(await kindOfFile(file("RIFF", 1, 10, 13, 0, "WEBPVP8 "))).toEqual({ mediaType: "image/webp" });
  });
  it("tells what cannot be restored", async () => {
    expect(await kindOfFile(file())).toEqual({ unusable: "empty" });
    expect(await kindOfFile(file("GIF89a"))).toEqual({ unusable: "notPicture" });
    expect(await kindOfFile(file("no picture"))).toEqual({ unusable: "notPicture" });
  });
});
