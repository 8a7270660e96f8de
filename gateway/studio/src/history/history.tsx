/** The tab "History". `active`: it is in view. */
export function History({ active }: { active: boolean }) {
  return <p>{active ? "History" : ""}</p>;
}
