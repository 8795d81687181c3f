// What all pages need: elements, and a start once the page is there.

/** An element with properties, attributes ("aria-...", "data-...", "for") and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A control with its name before it. */
export function field(words, input) {
  return element("label", { className: "kat-field" }, element("span", {}, words), input);
}

/** Runs start(root) for the element of this id, once, also where the theme swaps pages. */
export function onPage(id, start) {
  const run = () => {
    const root = document.getElementById(id);
    if (!root || root.dataset.started) return;
    root.dataset.started = "yes";
    start(root).catch((error) => {
      root.replaceChildren(element("p", { role: "alert" }, `This page could not start: ${error.message}`));
      throw error;
    });
  };
  if (window.document$) window.document$.subscribe(run);
  else run();
}

/** A file beside this one, read as JSON. */
export async function readJson(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.json();
}

/** A number in a few digits: 0.0123, 1.2e-7, with a true minus sign. */
export function short(value, digits = 4) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "undefined" : value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 1e-3 || size >= 1e5)
      ? Number(value.toPrecision(digits - 1)).toExponential()
      : String(+value.toPrecision(digits));
  return text.replace("-", "−").replace("e-", "e−").replace("e+", "e");
}
