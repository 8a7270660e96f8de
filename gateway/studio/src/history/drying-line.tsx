/** What teaches an empty history: sheets on a line, one of them with a portrait. Decoration. */
export function DryingLine() {
  return (
    <svg class="drying-line" viewBox="0 0 360 170" aria-hidden="true" focusable="false">
      <path class="cord" d="M0 22 Q180 62 360 22" />
      <g transform="rotate(5 74 36)">
        <rect class="paper" x="36" y="36" width="74" height="96" rx="2" />
        <path class="ink" d="M46 112 64 88l12 14 10-10 14 20z" />
        <circle class="ink" cx="88" cy="66" r="6" />
        <rect class="peg" x="69" y="27" width="7" height="20" rx="2" />
      </g>
      <g>
        <rect class="paper" x="138" y="42" width="84" height="108" rx="2" />
        <path class="ink" d="M152 136c3-20 14-27 28-27s25 7 28 27" />
        <ellipse class="ink" cx="180" cy="86" rx="15" ry="18" />
        <path class="hair" d="M165 84c-2-20 10-24 16-24 9 0 16 7 14 24-5-2-8-6-9-11-5 5-14 8-21 11" />
        <rect class="peg" x="176.500" y="33" width="7" height="20" rx="2" />
      </g>
      <g transform="rotate(-5 286 36)">
        <rect class="paper faint" x="250" y="36" width="74" height="96" rx="2" />
        <rect class="peg" x="284" y="27" width="7" height="20" rx="2" />
      </g>
    </svg>
  );
}
