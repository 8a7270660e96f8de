/** The tab "Create". `active`: it is in view. */
export function Create({ active }: { active: boolean }) {
  return <p>{active ? "Create" : ""}</p>;
}
