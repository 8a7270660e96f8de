import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { changeEntry, photographs, type Photograph, type PhotographSettings } from "../store/entries";
import { health } from "../store/health";
import { loadedNetworks } from "./queue";

interface Props {
  photograph: Photograph;
  onSet: (change: Partial<PhotographSettings>) => void;
}

/** What holds for the photograph as a whole. What needs a network that is missing says so. */
export function PhotographOptions({ photograph, onSet }: Props) {
  const { id, settings, faces, width, height } = photograph;
  const texts = t.value.restore.options;
  const loaded = loadedNetworks();
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
                checked={settings.identity === "guard" && loaded.identity}
                disabled={!loaded.identity}
                onChange={(event) => onSet({ identity: event.currentTarget.checked ? "guard" : null })}
              />
              <span>{texts.guard}</span>
            </label>
            <p class="small soft">{loaded.identity ? texts.guardHint : texts.noIdentity}</p>
          </div>
          <fieldset class="option">
            <legend class="name">{texts.mask}</legend>
            <div class="segments">
              {(["feather", "parse"] as const).map((mask) => (
                <label key={mask} class={mask === "parse" && !loaded.parser ? "missing" : ""}>
                  <input
                    type="radio"
                    name={`mask-${id}`}
                    disabled={mask === "parse" && !loaded.parser}
                    checked={(loaded.parser ? settings.mask : "feather") === mask}
                    onChange={() => onSet({ mask })}
                  />
                  <span>{texts[mask]}</span>
                </label>
              ))}
            </div>
            {!loaded.parser && <p class="small soft">{texts.noParser}</p>}
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
