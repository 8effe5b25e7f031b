// A list that grows as its end comes near: skeletons while it loads, a retry where it failed, a word where it is empty.

import {make} from "./element.js";
import {api} from "./session.js";

const AHEAD = "900px";           // how far below the screen the end counts as near

/**
 * Fills `list` from a path of the API, page by page, and gives it with what stands below it.
 *
 * shown(items)   the elements of a page; items with ids that were there before are left out
 * skeleton()     an element in place of those to come
 * empty()        an element for a list without any
 * end            words below the last one
 */
export function endless(list, path, {shown, skeleton, empty, signal, end = "", limit = 12, arrived = () => {}}) {
  const foot = make("div.foot");
  const node = make("div.endless", {}, list, foot);
  const ids = new Set();
  let [cursor, busy, done] = [null, false, false];

  async function more() {
    if (busy || done || signal.aborted) return;
    busy = true;
    node.setAttribute("aria-busy", "true");
    foot.replaceChildren(skeleton());
    try {
      const join = path.includes("?") ? "&" : "?";
      const query = new URLSearchParams({limit, ...(cursor === null ? {} : {cursor})});
      const page = await api.get(`${path}${join}${query}`, {signal});
      take(page);
    } catch (fault) {
      if (signal.aborted) return;
      foot.replaceChildren(trouble(fault, () => { busy = false; more(); }));
      return;                    // busy stays: only the button tries again
    } finally {
      node.setAttribute("aria-busy", "false");
    }
    busy = false;
    if (!done && near()) more();
  }

  function take({items, next}) {
    const first = cursor === null;
    const fresh = items.filter(({id}) => !ids.has(id));
    for (const {id} of fresh) ids.add(id);
    [cursor, done] = [next, next === null];
    list.append(...shown(fresh));
    arrived(fresh, first);
    if (!done) foot.replaceChildren();
    else if (ids.size === 0) foot.replaceChildren(empty());
    else foot.replaceChildren(...(end ? [make("p.end", {}, end)] : []));
  }

  const near = () => foot.isConnected && foot.getBoundingClientRect().top < innerHeight + parseInt(AHEAD, 10);
  const watch = new IntersectionObserver(([{isIntersecting}]) => isIntersecting && more(), {rootMargin: AHEAD});
  watch.observe(foot);
  signal.addEventListener("abort", () => watch.disconnect());
  foot.append(skeleton());
  more();
  return node;
}

/** What went wrong, and a button to try again. */
export function trouble(fault, again) {
  const node = make("div.trouble", {role: "alert"});
  node.append(make("p", {}, fault.message), make("button.plain", {type: "button", onclick: again}, "Try again"));
  return node;
}

/** A page or a part of it with nothing in it. */
export function nothing(title, words, ...rest) {
  return make("div.nothing", {}, make("h2", {}, title), make("p", {}, words), ...rest);
}
