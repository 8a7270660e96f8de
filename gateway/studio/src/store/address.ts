/** A blob as an address that `<img>` can show. */
import { useEffect, useState } from "preact/hooks";

/**
 * While the component is there. The database gives the same picture as another object each time, which is no other
 * picture: blobs are told apart by their sizes, files by what they are.
 */
export function useAddress(blob: Blob | null): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (!blob) return undefined;
    const made = URL.createObjectURL(blob);
    setUrl(made);
    return () => {
      setUrl(null);
      URL.revokeObjectURL(made);
    };
  }, [blob instanceof File ? blob : (blob?.size ?? null)]);
  return blob ? url : null;
}
