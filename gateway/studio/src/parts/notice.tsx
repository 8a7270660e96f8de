import type { ComponentChildren } from "preact";
import { Icon } from "./icon";
import "./notice.css";

interface Props {
  kind?: "info" | "warning" | "error";
  /** Read aloud when it appears; for what comes in answer to something that the person did. */
  live?: boolean;
  children: ComponentChildren;
}

/** A remark where it matters. */
export function Notice({ kind = "info", live = false, children }: Props) {
  return (
    <div class={`notice ${kind}`} role={live ? (kind === "error" ? "alert" : "status") : undefined}>
      {kind !== "info" && <Icon name="warning" />}
      <div>{children}</div>
    </div>
  );
}
