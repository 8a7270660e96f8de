import { defineConfig } from "vitest/config";

/** Of `make run`. */
const GATEWAY = "http://127.0.0.1:7860";

// The gateway serves index.html at / and studio/* beside it; see gateway/atelier_gateway/studio.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../atelier_gateway/studio/static",
    emptyOutDir: true,
    assetsDir: "studio",
    assetsInlineLimit: 0, // data: URIs are not allowed in style sheets by the page's Content-Security-Policy
    modulePreload: { polyfill: false },
    target: ["chrome123", "firefox121", "safari17.5"], // light-dark()
    reportCompressedSize: true,
  },
  server: {
    proxy: {
      "^/(v1|health|openapi.json)": GATEWAY,
      // In JSON, / says what is serving; for a browser that opens it, it is the page, which is served from the source.
      "^/$": { target: GATEWAY, bypass: ({ headers, url }) => (headers.accept?.includes("text/html") ? url : null) },
    },
  },
  test: { environment: "happy-dom", include: ["src/**/*.test.ts", "src/**/*.test.tsx"] },
});
