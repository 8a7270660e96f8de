// Reads manifests as a JSON array from standard input and prints, as a JSON array, what is wrong with each.
// A validator does not mind keys that it does not know. It looks at every key that it does, so a key that it
// never looked at is a typo.
import { readFileSync } from "node:fs";

const PACKAGES = {
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const own = Array.isArray(value) ? null : new Set(Object.keys(value));
  if (own) unread.set(path, own);
  const children = new Map();
  return new Proxy(value, {
    get(target, key) {
      if (own) own.delete(key);
      if (!Object.hasOwn(target, key) || typeof key === "symbol") return target[key];
      if (!children.has(key)) children.set(key, watched(target[key], `${path}.${key}`, unread));
      return children.get(key);
    },
  });
}

async function problems(manifest) {
  const [group, version] = manifest.apiVersion.split("/");
  const module = await import(`${PACKAGES[group]}/${group}/${version}`);
  if (!module[manifest.kind]) return [`there is no kind ${manifest.kind} in ${manifest.apiVersion}`];
  const unread = new Map();
  watched(new module[manifest.kind](manifest), manifest.kind, unread).validate();
  return [...unread].flatMap(([path, keys]) => [...keys].map((key) => `${path}.${key} is not known`));
}

const answers = [];
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    answers.push(await problems(manifest));
  } catch (error) {
    answers.push([error.message]);
  }
}
console.log(JSON.stringify(answers));
