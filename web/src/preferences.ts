/** Theme, language and model: what the page remembers beside conversations. Read by theme.js too. */

import { computed, effect, signal } from "@preact/signals";
import { preferredLanguage, TEXTS, type Language } from "./texts";

export type Theme = "system" | "light" | "dark";

const NAME = "pronk.preferences";
const KEY_NAME = "pronk.key";

interface Preferences {
  theme?: Theme;
  language?: Language;
  model?: string;
}

function read(): Preferences {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME) ?? "{}") as Record<string, unknown>;
    const { theme, language, model } = kept;
    return {
      ...(theme === "light" || theme === "dark" ? { theme } : {}),
      ...(language === "en" || language === "zh" ? { language } : {}),
      ...(typeof model === "string" ? { model } : {}),
    };
  } catch {
    return {};
  }
}

const kept = read();

export const theme = signal<Theme>(kept.theme ?? "system");
export const language = signal<Language>(kept.language ?? preferredLanguage(navigator.languages));
const languageChosen = signal(kept.language !== undefined);
/** The model that was chosen last; the server may no longer have it. */
export const preferredModel = signal(kept.model ?? "");
export const texts = computed(() => TEXTS[language.value]);

export function chooseLanguage(choice: Language): void {
  language.value = choice;
  languageChosen.value = true;
}

effect(() => {
  const { dataset } = document.documentElement;
  if (theme.value === "system") delete dataset["theme"];
  else dataset["theme"] = theme.value;
});

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
});

effect(() => {
  const now: Preferences = {
    ...(theme.value === "system" ? {} : { theme: theme.value }),
    ...(languageChosen.value ? { language: language.value } : {}),
    ...(preferredModel.value ? { model: preferredModel.value } : {}),
  };
  try {
    localStorage.setItem(NAME, JSON.stringify(now));
  } catch {
    // A browser that keeps nothing: the choices hold until the page is closed.
  }
});

function storedKey(): string {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? "";
  } catch {
    return "";
  }
}

/** The API key. Of this tab only: sessionStorage ends with it. */
export const apiKey = signal(storedKey());

export function keepKey(key: string): void {
  apiKey.value = key;
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // As above.
  }
}
