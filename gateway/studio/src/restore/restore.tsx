/** The tab "Restore". `active`: it is in view. */
export function Restore({ active }: { active: boolean }) {
  return <p>{active ? "Restore" : ""}</p>;
}
