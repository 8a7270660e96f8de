interface Props {
  url: string;
  /** Of the picture, in px. */
  width: number;
  height: number;
  box: readonly number[];
  alt: string;
}

/** A square out of a picture, around a face. */
export function FaceCrop({ url, width, height, box, alt }: Props) {
  const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = box;
  const side = 1.4 * Math.max(x2 - x1, y2 - y1, 1);
  const left = (x1 + x2) / 2 - side / 2;
  const top = (y1 + y2) / 2 - side / 2;
  return (
    <span class="face-crop">
      <img
        src={url}
        alt={alt}
        loading="lazy"
        style={{
          width: `${(100 * width) / side}%`,
          height: `${(100 * height) / side}%`,
          left: `${(-100 * left) / side}%`,
          top: `${(-100 * top) / side}%`,
        }}
      />
    </span>
  );
}
