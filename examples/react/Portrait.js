// A form, and the image that the gateway generates. Written without JSX, so that no build step is needed.
const { createElement: h, useState } = React;

export function Portrait({ api }) {
  const [prompt, setPrompt] = useState("professional headshot of a woman");
  const [image, setImage] = useState(null);
  const [status, setStatus] = useState("");
  const [busy, setBusy] = useState(false);

  async function generate(event) {
    event.preventDefault();
    setBusy(true);
    setStatus("Generating ...");
    try {
      const response = await fetch(`${api}/generate`, {
        method: "POST",
        body: JSON.stringify({ prompt, hires_fix: true }),
      });
      const result = await response.json();
      if (!result.success) throw new Error(result.error.message);
      setImage(result.image); // a data URI
      const restored = result.faces.filter((face) => face.restored).length;
      setStatus(`${result.final_resolution}, seed ${result.seed}, ${restored} faces restored`);
    } catch (error) {
      setStatus(`Failed: ${error.message}`);
    } finally {
      setBusy(false);
    }
  }

  return h("main", null,
    h("form", { onSubmit: generate },
      h("input", { value: prompt, onChange: (event) => setPrompt(event.target.value), "aria-label": "Prompt" }),
      h("button", { disabled: busy }, "Generate"),
    ),
    h("p", { role: "status" }, status),
    image && h("img", { src: image, alt: prompt }),
  );
}
