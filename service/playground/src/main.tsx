/** The page's start. */

import { render } from "preact";
import { App } from "./app";
import { applyTheme, systemTheme } from "./theme";

applyTheme(systemTheme());
const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
