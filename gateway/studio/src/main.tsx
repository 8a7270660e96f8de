import "./styles/fonts.css";
import "./styles/tokens.css";
import "./styles/base.css";
import "./parts/segments.css";
import { render } from "preact";
import { App } from "./app";
import { noteDeleted } from "./store/deleting";
import { keepFocus } from "./parts/focus";
import { readEntries } from "./store/entries";
import { keepEntries } from "./store/keeping";

const root = document.getElementById("studio");
if (root) render(<App />, root);
keepEntries();
noteDeleted();
keepFocus();
void readEntries();
