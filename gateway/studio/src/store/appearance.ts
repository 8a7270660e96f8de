/** Language and theme: what the browser says, unless the person has chosen. */
import { computed, effect, signal } from "@preact/signals";
import { de } from "../text/de";
import { en, type Texts } from "../text/en";
import { keep, recall, whenKeptElsewhere } from "./storage";

export const languages = { en: { name: "English", texts: en }, de: { name: "Deutsch", texts: de } } as const;
export type Language = keyof typeof languages;
export type Theme = "auto" | "light" | "dark";

function preferredLanguage(): Language {
  for (const tag of navigator.languages ?? []) {
    const language = tag.slice(0, 2).toLowerCase();
    if (language in languages) return language as Language;
  }
  return "en";
}

const THEMES: readonly string[] = ["auto", "light", "dark"] satisfies Theme[];

function languageOf(kept: string | null): Language {
  return kept !== null && kept in languages ? (kept as Language) : preferredLanguage();
}
function themeOf(kept: string | null): Theme {
  return kept !== null && THEMES.includes(kept) ? (kept as Theme) : "auto";
}

export const language = signal<Language>(languageOf(recall("atelier.language")));
export const theme = signal<Theme>(themeOf(recall("atelier.theme")));
whenKeptElsewhere("atelier.language", (kept) => (language.value = languageOf(kept)));
whenKeptElsewhere("atelier.theme", (kept) => (theme.value = themeOf(kept)));

/** All texts of the page in its language: `t.value.create.prompt`. */
export const t = computed<Texts>(() => languages[language.value].texts);

effect(() => {
  document.documentElement.lang = language.value;
});
effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme.value;
});

export function chooseLanguage(chosen: Language): void {
  language.value = chosen;
  keep("atelier.language", chosen);
}

export function chooseTheme(chosen: Theme): void {
  theme.value = chosen;
  keep("atelier.theme", chosen);
}

/** A number as the language writes it. */
export function formatNumber(value: number, options: Intl.NumberFormatOptions = {}): string {
  return new Intl.NumberFormat(language.value, options).format(value);
}

/** A span of time in words that suit its length. */
export function formatSeconds(seconds: number): string {
  if (seconds < 60) return t.value.common.seconds(Math.max(1, Math.round(seconds)));
  if (seconds < 3600) return t.value.common.minutes(Math.round(seconds / 60));
  return t.value.common.hours(Math.round(seconds / 3600));
}

/** A day, such as Monday, November 30. */
export function formatDay(at: number): string {
  return new Intl.DateTimeFormat(language.value, { weekday: "long", day: "numeric", month: "long" }).format(at);
}

/** A time of day. */
export function formatTime(at: number): string {
  return new Intl.DateTimeFormat(language.value, { hour: "numeric", minute: "2-digit" }).format(at);
}
