import { useEffect, useState } from "preact/hooks";
import { getAbout } from "../api/client";
import { Problem } from "../api/problem";
import type { About, Health } from "../api/types";
import { Dialog } from "../parts/dialog";
import { Notice } from "../parts/notice";
import { formatNumber, t } from "../store/appearance";
import { health, readiness } from "../store/health";
import { AppearanceChoice } from "./appearance-choice";
import { KeyForm } from "./key-form";
import { memoryOf, missingOf, SERVICES } from "./missing";
import { stateIsOpen } from "./open";
import "./state.css";

/** What is working: one word in the header, the rest in a dialog. */
export function State() {
  const texts = t.value.state;
  return (
    <>
      <button
        type="button"
        class={`state-button button quiet ${readiness.value}`}
        aria-haspopup="dialog"
        onClick={() => (stateIsOpen.value = true)}
      >
        <span class="state-dot" aria-hidden="true" />
        <span>
          <span class="only-read-aloud">{texts.name}: </span>
          <span class="state-word">{texts[readiness.value]}</span>
        </span>
      </button>
      <Dialog title={texts.name} open={stateIsOpen.value} onClose={() => (stateIsOpen.value = false)}>
        <Content />
      </Dialog>
    </>
  );
}

function Content() {
  const texts = t.value.state;
  const said = health.value;
  const about = useAbout();
  const sentence = readiness.value === "ready" && said?.restores_only ? "restoresOnly" : readiness.value;
  return (
    <div class="state">
      <p class={`state-sentence ${readiness.value}`}>{texts.sentences[sentence]}</p>
      {said && readiness.value !== "offline" && (
        <>
          <Missing said={said} />
          <Networks said={said} />
          <Facts said={said} about={about} />
        </>
      )}
      <KeyForm />
      <AppearanceChoice />
      <p class="state-links small">
        <a href="docs" target="_blank" rel="noreferrer">
          {texts.docs}
        </a>
        <a href="openapi.json" target="_blank" rel="noreferrer">
          {texts.openapi}
        </a>
      </p>
    </div>
  );
}

/** Asked for when the dialog opens: the version changes with the gateway only. */
function useAbout(): About | null {
  const [about, setAbout] = useState<About | null>(null);
  useEffect(() => {
    const end = new AbortController();
    getAbout(end.signal).then(setAbout, (error: unknown) => {
      if (!(error instanceof Problem || end.signal.aborted)) throw error; // it is said to be away elsewhere
    });
    return () => end.abort();
  }, []);
  return about;
}

function Missing({ said }: { said: Health }) {
  const texts = t.value.state;
  const { away, roles } = missingOf(said);
  if (away.length + roles.length === 0) return null;
  return (
    <Notice kind={away.length > 0 ? "warning" : "info"}>
      <h3 class="only-read-aloud">{texts.missing}</h3>
      <ul class="state-missing">
        {away.map((service) => (
          <li key={service}>{texts.away[service]}</li>
        ))}
        {roles.map((role) => (
          <li key={role}>{texts.lacks[role]}</li>
        ))}
      </ul>
    </Notice>
  );
}

function Networks({ said }: { said: Health }) {
  const texts = t.value.state;
  const { networks } = said;
  if (networks.length === 0) return null;
  return (
    <section>
      <table class="state-networks">
        <caption>{texts.networks}</caption>
        <thead class="only-read-aloud">
          <tr>
            <th scope="col">{texts.does}</th>
            <th scope="col">{texts.network}</th>
          </tr>
        </thead>
        {SERVICES.map((service) => {
          const ofService = networks.filter((network) => network.service === service);
          return (
            ofService.length > 0 && (
              <tbody key={service}>
                <tr>
                  <th scope="rowgroup" colSpan={2}>
                    {texts.services[service]}
                  </th>
                </tr>
                {ofService.map((network) => (
                  <tr key={`${network.role} ${network.name}`}>
                    <td>{network.role === null ? texts.otherRole : texts.roles[network.role]}</td>
                    <td>{network.name}</td>
                  </tr>
                ))}
              </tbody>
            )
          );
        })}
      </table>
    </section>
  );
}

function Facts({ said, about }: { said: Health; about: About | null }) {
  const texts = t.value.state;
  const memory = said.vram_available ? memoryOf(said.vram_available) : null;
  const onProcessor = said.device === "cpu" ? texts.onProcessor : null;
  const device = said.gpu_info ? `${said.gpu_info} (${said.device})` : (onProcessor ?? said.device);
  const load = { generator: said.generator_load, restorer: said.restorer_load };
  const number = (value: number | null) => formatNumber(value ?? 0);
  const facts: [string, string | null | undefined][] = [
    [texts.device, device],
    [texts.memory, memory && texts.free(memory.free, memory.total)],
    ...SERVICES.filter((service) => !(said.restores_only && service === "generator")).map(
      (service): [string, string] => {
        const now = load[service];
        return [
          texts.services[service],
          now ? texts.load(number(now.running), number(now.queue_depth), number(now.queue_capacity)) : texts.noLoad,
        ];
      },
    ),
    [texts.modelSet, said.model ?? about?.model],
    [texts.version, about?.version],
  ];
  return (
    <section>
      <h3>{texts.facts}</h3>
      <dl class="state-facts">
        {facts.map(
          ([name, value]) =>
            value && (
              <div key={name}>
                <dt>{name}</dt>
                <dd class="tabular">{value}</dd>
              </div>
            ),
        )}
      </dl>
    </section>
  );
}
