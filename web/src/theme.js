// Runs before anything is painted; see vite.config.ts.
(() => {
  try {
    const chosen = JSON.parse(localStorage.getItem("pronk.preferences") ?? "{}").theme;
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the system's theme is used then.
  }
})();
