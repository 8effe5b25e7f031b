// Short messages at the edge of the page. A screen reader hears them too: the region is a live one.

import {icon, make} from "./element.js";

const LASTS = {note: 5_000, fault: 9_000};  // ms
const MOST = 3;

/**
 * Says something. `tone`: "note" or "fault"; `action` and `act`: a button; `face` and `picture`: elements beside it;
 * `href`: where it leads, `opened()`: it was followed. Gives a function that takes it away.
 */
export function toast(text, {tone = "note", action = null, act = null, face = null, picture = null, href = null, opened = () => {}} = {}) {
  const region = document.getElementById("toasts");
  const node = make(`div.toast.${tone}`);
  const close = () => {
    clearTimeout(timer);
    node.remove();
  };
  const body = href === null ? make("p", {}, text) : make("a.lead", {href, onclick: () => { close(); opened(); }}, text);
  const button = action && make("button.quiet", {type: "button", onclick: () => { close(); act(); }}, action);
  const end = make("button.round", {type: "button", "aria-label": "Dismiss", onclick: close}, icon("close"));
  node.append(...[face, body, picture, button, end].filter(Boolean));
  let timer = setTimeout(close, LASTS[tone]);
  // Whoever reads it or is about to press it keeps it.
  for (const kind of ["pointerenter", "focusin"]) node.addEventListener(kind, () => clearTimeout(timer));
  for (const kind of ["pointerleave", "focusout"]) {
    node.addEventListener(kind, () => { clearTimeout(timer); timer = setTimeout(close, LASTS[tone]); });
  }
  region.append(node);
  while (region.children.length > MOST) region.firstElementChild.remove();
  return close;
}
