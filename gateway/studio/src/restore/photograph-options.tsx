import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { changeEntry, photographs, type Photograph, type PhotographSettings } from "../store/entries";
import { has, health } from "../store/health";
import { isExact } from "./edits";

interface Props {
  photograph: Photograph;
  onSet: (change: Partial<PhotographSettings>) => void;
}

/** What holds for the photograph as a whole. What needs a network that is missing says so. */
export function PhotographOptions({ photograph, onSet }: Props) {
  const { id, settings, faces, width, height, mediaType } = photograph;
  const texts = t.value.restore.options;
  // What is chosen stays so whatever is loaded now: the restorer may be away, and the gateway refuses what cannot be done.
  const hasIdentity = health.value?.identity_available !== false;
  const hasParser = has("parser");
  const isGuarded = settings.identity === "guard";
  const hasFaces = (faces?.length ?? 0) > 0;
  const size = (side: number) => formatNumber(side * settings.upscale, { useGrouping: false });
  const others = photographs.value.filter((other) => other.id !== id);

  async function useForAll() {
    for (const other of others) {
      await changeEntry<Photograph>(other.id, (entry) => ({ ...entry, settings: photograph.settings }));
    }
    announce(texts.usedForAll(others.length));
  }

  return (
    <section class="choices-part options" aria-label={t.value.restore.photograph.look}>
      {hasFaces && (
        <>
          <div>
            <label class="check">
              <input
                type="checkbox"
                checked={isGuarded}
                disabled={!hasIdentity && !isGuarded}
                onChange={(event) => onSet({ identity: event.currentTarget.checked ? "guard" : null })}
              />
              <span>{texts.guard}</span>
            </label>
            <p class="small soft">
              {hasIdentity ? texts.guardHint : isGuarded ? texts.guardRefused : texts.noIdentity}
            </p>
          </div>
          <fieldset class="option">
            <legend class="name">{texts.mask}</legend>
            <div class="segments">
              {(["feather", "parse"] as const).map((mask) => (
                <label key={mask} class={mask === "parse" && !hasParser ? "missing" : ""}>
                  <input
                    type="radio"
                    name={`mask-${id}`}
                    disabled={mask === "parse" && !hasParser && settings.mask !== "parse"}
                    checked={settings.mask === mask}
                    onChange={() => onSet({ mask })}
                  />
                  <span>{texts[mask]}</span>
                </label>
              ))}
            </div>
            {!hasParser && (
              <p class="small soft">{settings.mask === "parse" ? texts.parserRefused : texts.noParser}</p>
            )}
          </fieldset>
        </>
      )}
      <fieldset class="option">
        <legend class="name">{texts.enlarge}</legend>
        <div class="row">
          <div class="segments">
            {([1, 2, 4] as const).map((factor) => (
              <label key={factor}>
                <input
                  type="radio"
                  name={`enlarge-${id}`}
                  checked={settings.upscale === factor}
                  onChange={() => onSet({ upscale: factor })}
                />
                <span>{texts.times(factor)}</span>
              </label>
            ))}
          </div>
          <span class="small soft tabular">{texts.size(size(width), size(height))}</span>
        </div>
        {settings.upscale > 1 && <p class="small soft">{describeUpscaler()}</p>}
      </fieldset>
      {mediaType !== "image/png" && (
        <fieldset class="option">
          <legend class="name">{texts.format}</legend>
          <div class="segments">
            {([null, "png"] as const).map((format) => (
              <label key={format}>
                <input
                  type="radio"
                  name={`format-${id}`}
                  checked={(settings.format ?? null) === format}
                  onChange={() => onSet({ format })}
                />
                <span>{format === null ? texts.sameFormat : texts.lossless}</span>
              </label>
            ))}
          </div>
          {settings.upscale === 1 && (
            <p class="small soft">
              {isExact(settings.format === "png" ? "image/png" : mediaType, 1) ? texts.losslessHint : texts.sameFormatHint}
            </p>
          )}
        </fieldset>
      )}
      {others.length > 0 && (
        <button type="button" class="button quiet small use-for-all" onClick={() => void useForAll()}>
          {texts.useForAll}
        </button>
      )}
    </section>
  );
}

function describeUpscaler(): string {
  const texts = t.value.restore.options;
  const network = health.value?.networks?.find(({ service, role }) => service === "restorer" && role === "upscaler");
  if (network) return texts.withNetwork(network.name);
  return health.value?.realesrgan_available ? texts.withUpscaler : texts.withLanczos;
}
