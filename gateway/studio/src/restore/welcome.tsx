import { t } from "../store/appearance";
import { AddPhotographs } from "./add-photographs";
import example from "./example.webp";
import "./welcome.css";

/** The tab without photographs: what it does, by one picture. */
export function Welcome() {
  const texts = t.value.restore;
  return (
    <section class="welcome">
      <figure class="welcome-picture">
        <img src={example} alt={texts.example} width={708} height={750} />
        <figcaption aria-hidden="true">
          <span>{t.value.comparison.before}</span>
          <span>{t.value.comparison.after}</span>
        </figcaption>
      </figure>
      <div class="welcome-words">
        <h1>{texts.title}</h1>
        <p class="welcome-lead">{texts.lead}</p>
        <AddPhotographs />
        <ol>
          {texts.steps.map((step) => (
            <li key={step}>{step}</li>
          ))}
        </ol>
        <p class="small soft">{texts.kept}</p>
      </div>
    </section>
  );
}
