// Elements out of script. Text is always text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element: `make("button.quiet", {type: "button", onclick}, "Cancel")`. Functions named on… become listeners, members
 * with a hyphen attributes, others properties; null, undefined and false are left out, also among the children.
 */
export function make(name, members = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length > 0) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(members)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else if (key in node && !key.includes("-")) node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the symbols in index.html. Screen readers pass over it: what it stands for is said in words. */
export function icon(name) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("class", "icon");
  node.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  node.append(use);
  return node;
}

/** Words for screen readers alone. */
export const unseen = (...words) => make("span.unseen", {}, ...words);

/** The text of a live region, said again only when it is another. */
export function say(region, text) {
  if (region.textContent !== text) region.textContent = text;
}
