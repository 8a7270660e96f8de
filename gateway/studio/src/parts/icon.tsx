/** Line icons, 20 x 20, in the color of the text. Decoration: what they are on has a name of its own. */
const PATHS = {
  download: "M10 3v10m-4-4 4 4 4-4M4 17h12",
  dice: "M4 4h12v12H4zM7.500 7.500h.01M12.500 7.500h.01M10 10h.01M7.500 12.500h.01M12.500 12.500h.01",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  close: "m5 5 10 10M15 5 5 15",
  plus: "M10 4v12M4 10h12",
  minus: "M4 10h12",
  fit: "M4 8V4h4M12 4h4v4M16 12v4h-4M8 16H4v-4",
  again: "M16 10a6 6 0 1 1-2-4.500M14.500 2v4h-4",
  trash: "M4 6h12M8 6V4h4v2m-6.500 0 .8 11h7.400l.8-11",
  camera: "M3 7h3l1.500-2h5L14 7h3v9H3zm7 7a2.800 2.800 0 1 0 0-5.600 2.800 2.800 0 0 0 0 5.600",
  folder: "M3 16V5h5l2 2h7v9z",
  picture: "M3 4h14v12H3zm0 9 4-4 4 4 2-2 4 4M13 8h.01",
  check: "m4 10.500 4 4 8-9",
  warning: "M10 3 18 17H2zM10 8v4m0 2.500h.01",
  person: "M10 10a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7M3.500 17c.6-3.500 3.200-5 6.500-5s5.900 1.500 6.500 5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 20 20"
      width="20"
      height="20"
      fill="none"
      stroke="currentColor"
      stroke-width="1.6"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}
