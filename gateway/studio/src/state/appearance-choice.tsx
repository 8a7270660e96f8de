import { useId } from "preact/hooks";
import {
  chooseLanguage,
  chooseTheme,
  type Language,
  language,
  languages,
  type Theme,
  t,
  theme,
} from "../store/appearance";

const THEMES: readonly Theme[] = ["auto", "light", "dark"];

/** The page's language and colors. */
export function AppearanceChoice() {
  const texts = t.value.state;
  const known = Object.keys(languages) as Language[];
  return (
    <div class="appearance-choice">
      <Choice
        name={texts.language}
        options={known.map((each) => ({ value: each, text: languages[each].name, lang: each }))}
        chosen={language.value}
        onChoose={chooseLanguage}
      />
      <Choice
        name={texts.theme}
        options={THEMES.map((each) => ({ value: each, text: texts.themes[each] }))}
        chosen={theme.value}
        onChoose={chooseTheme}
      />
    </div>
  );
}

interface ChoiceProps<T extends string> {
  name: string;
  options: readonly { value: T; text: string; lang?: string }[];
  chosen: T;
  onChoose: (value: T) => void;
}

function Choice<T extends string>({ name, options, chosen, onChoose }: ChoiceProps<T>) {
  const group = useId();
  return (
    <fieldset>
      <legend class="name">{name}</legend>
      <div class="segments">
        {options.map(({ value, text, lang }) => (
          <label key={value}>
            <input type="radio" name={group} checked={value === chosen} onChange={() => onChoose(value)} />
            <span lang={lang}>{text}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
