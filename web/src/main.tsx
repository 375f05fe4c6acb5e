import "./styles/base.css";
import "./styles/page.css";
import "./styles/conversation.css";
import "./styles/sheets.css";
import { render } from "preact";
import { begin } from "./session";
import { App } from "./ui/app";

const root = document.getElementById("app");
if (root) render(<App />, root);
void begin();
