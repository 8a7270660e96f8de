/** The arithmetic of a picture in a window: which part of it is seen, and how large. */

export interface Size {
  width: number;
  height: number;
}

/** `scale`: CSS px for each px of the picture; `x`, `y`: the point of the picture in the middle of the window. */
export interface Zoom {
  scale: number;
  x: number;
  y: number;
}

export const LARGEST = 16;

/** All of the picture, as large as it fits, but never enlarged. */
export function fit(picture: Size, window: Size): Zoom {
  const scale = Math.min(window.width / picture.width, window.height / picture.height, 1);
  return { scale: scale > 0 && Number.isFinite(scale) ? scale : 1, x: picture.width / 2, y: picture.height / 2 };
}

/** Scale by a factor, so that the point of the picture under `at` (px from the middle of the window) stays there. */
export function zoomBy(
  zoom: Zoom,
  factor: number,
  at: { x: number; y: number },
  picture: Size,
  window: Size,
): Zoom {
  const smallest = fit(picture, window).scale;
  const scale = Math.min(LARGEST, Math.max(smallest, zoom.scale * factor));
  const x = zoom.x + at.x / zoom.scale - at.x / scale;
  const y = zoom.y + at.y / zoom.scale - at.y / scale;
  return clamp({ scale, x, y }, picture, window);
}

/** Move the picture by so many CSS px. */
export function pan(zoom: Zoom, dx: number, dy: number, picture: Size, window: Size): Zoom {
  return clamp({ ...zoom, x: zoom.x - dx / zoom.scale, y: zoom.y - dy / zoom.scale }, picture, window);
}

/** Keep the picture's edges out of the window, or the picture in its middle where it is smaller. */
export function clamp(zoom: Zoom, picture: Size, window: Size): Zoom {
  return {
    scale: zoom.scale,
    x: between(zoom.x, window.width / 2 / zoom.scale, picture.width),
    y: between(zoom.y, window.height / 2 / zoom.scale, picture.height),
  };
}

function between(center: number, half: number, length: number): number {
  return 2 * half >= length ? length / 2 : Math.min(length - half, Math.max(half, center));
}
