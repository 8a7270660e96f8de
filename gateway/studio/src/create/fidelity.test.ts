import { expect, it } from "vitest";
import { Fidelities, neighborsOf, outputOf, restorationOf } from "./fidelity";

/** Answers when it is told to. */
class Restorer {
  asked: { value: number; ahead: boolean; signal: AbortSignal; answer: (text: string) => void; fail: () => void }[] = [];

  ask = (value: number, ahead: boolean, signal: AbortSignal): Promise<string> =>
    new Promise((answer, fail) => {
      this.asked.push({ value, ahead, signal, answer, fail: () => fail(new Error("no")) });
    });

  of(value: number) {
    const found = this.asked.findLast((each) => each.value === value);
    if (!found) throw new Error(`${value} was not asked for`);
    return found;
  }
}

it("lets the newest value win over an older answer", async () => {
  const restorer = new Restorer();
  const fidelities = new Fidelities(restorer.ask);
  const older = fidelities.want(0.2);
  const newer = fidelities.want(0.8);
  expect(restorer.of(0.2).signal.aborted).toBe(true);
  restorer.of(0.8).answer("at 0.8");
  restorer.of(0.2).answer("at 0.2");
  expect(await newer).toBe("at 0.8");
  expect(await older).toBeNull();
  expect(fidelities.kept(0.2)).toBeNull();
});

it("asks for each value once, also if it came ahead", async () => {
  const restorer = new Restorer();
  const fidelities = new Fidelities(restorer.ask);
  fidelities.ahead([0.5, 0.7]);
  expect(restorer.asked.map(({ ahead }) => ahead)).toEqual([true, true]);
  const wanted = fidelities.want(0.7);
  expect(restorer.of(0.5).signal.aborted).toBe(true);
  restorer.of(0.7).answer("at 0.7");
  expect(await wanted).toBe("at 0.7");
  expect(await fidelities.want(0.7)).toBe("at 0.7");
  expect(restorer.asked).toHaveLength(2);
});

it("keeps a bounded number, the most recently used", async () => {
  const restorer = new Restorer();
  const fidelities = new Fidelities(restorer.ask, 2);
  for (const value of [0.1, 0.2, 0.1, 0.3]) {
    const wanted = fidelities.want(value);
    if (fidelities.kept(value) === null) restorer.of(value).answer(`at ${value}`);
    await wanted;
  }
  expect([0.1, 0.2, 0.3].map((value) => fidelities.kept(value))).toEqual(["at 0.1", null, "at 0.3"]);
});

it("tells of a failure, and asks again", async () => {
  const restorer = new Restorer();
  const fidelities = new Fidelities(restorer.ask);
  const wanted = fidelities.want(0.4);
  restorer.of(0.4).fail();
  await expect(wanted).rejects.toThrow("no");
  const again = fidelities.want(0.4);
  restorer.of(0.4).answer("at 0.4");
  expect(await again).toBe("at 0.4");
});

it("says nothing of what failed ahead or is wanted no more", async () => {
  const restorer = new Restorer();
  const fidelities = new Fidelities(restorer.ask);
  fidelities.ahead([0.5]);
  restorer.of(0.5).fail();
  const wanted = fidelities.want(0.6);
  fidelities.stop();
  expect(restorer.of(0.6).signal.aborted).toBe(true);
  restorer.of(0.6).fail();
  expect(await wanted).toBeNull();
});

it("has neighbors within 0 and 1", () => {
  expect(neighborsOf(0.6)).toEqual([0.7, 0.5]);
  expect(neighborsOf(0)).toEqual([0.1]);
  expect(neighborsOf(0.95)).toEqual([0.85]);
});

it("restores the nth drawing as its own job did", () => {
  expect(outputOf("image", 0)).toBe("image");
  expect(restorationOf("job_1", 1, { upscale: 2, match_tone: false }, 0.3)).toEqual({
    image: { job: "job_1", output: "drawn_2" },
    fidelity: 0.3,
    look: "once",
    identity: "off",
    upscale: 2,
    match_tone: false,
  });
});
