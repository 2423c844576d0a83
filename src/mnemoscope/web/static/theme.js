// Light, dark, or as the system: read before anything is drawn, so that nothing flashes.

(() => {
  const kept = localStorage.getItem("mnemoscope theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
