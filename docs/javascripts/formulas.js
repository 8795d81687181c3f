// Sets the formulas of a page, which Markdown leaves as \(...\) and \[...\], with KaTeX.

window.document$.subscribe(() => {
  for (const place of document.querySelectorAll(".arithmatex:not(:has(.katex))")) {
    const displayMode = place.tagName === "DIV";
    window.katex.render(place.textContent.trim().slice(2, -2), place, { displayMode });
  }
});
