// Addresses and what they show: the History API, with each page left as it was when one goes back to it.

const KEPT = 8;                  // pages that are kept for going back

/** `routes`: [pattern, view]. A view is given a visit and gives an element; it may fill it later. */
export class Router extends EventTarget {
  #routes; #main; #shown = null; #kept = new Map(); #keys = 0; #turned = false;

  constructor(routes, main) {
    super();
    [this.#routes, this.#main] = [routes, main];
  }

  start() {
    history.scrollRestoration = "manual";
    addEventListener("popstate", () => this.#turn());
    document.addEventListener("click", (event) => this.#click(event));
    this.#turn();
  }

  /** To another page; `replace`: in place of this one. */
  go(path, {replace = false} = {}) {
    const here = location.pathname + location.search;
    this.#put();
    const key = this.#key();
    if (replace || path === here) {
      if (this.#shown) this.#forget(this.#shown.key);
      history.replaceState({key}, "", path);
    } else {
      history.pushState({key}, "", path);
    }
    this.#turn();
  }

  back(otherwise = "/") {
    if (history.state?.inner) history.back();
    else this.go(otherwise, {replace: true});
  }

  /** All is to be shown anew: somebody else is looking. */
  renew(path = location.pathname + location.search) {
    for (const key of [...this.#kept.keys()]) this.#forget(key);
    if (this.#shown) this.#shown.ending.abort();
    this.#shown = null;
    history.replaceState({key: this.#key()}, "", path);
    this.#turn();
  }

  #key() { return `${Date.now().toString(36)}.${this.#keys++}`; }

  #click(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.target || link.origin !== location.origin || link.hasAttribute("download") || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    this.go(link.pathname + link.search + link.hash);
  }

  /** Keeps the page that is shown, and how far down it is. */
  #put() {
    if (this.#shown === null) return;
    this.#shown.scroll = scrollY;
    this.#kept.set(this.#shown.key, this.#shown);
    for (const key of this.#kept.keys()) {
      if (this.#kept.size <= KEPT) break;
      this.#forget(key);
    }
  }

  #forget(key) {
    this.#kept.get(key)?.ending.abort();
    this.#kept.delete(key);
    if (this.#shown?.key === key) this.#shown = null;
  }

  /** Shows what the address says. */
  #turn() {
    this.#put();
    if (!history.state?.key) history.replaceState({key: this.#key()}, "");
    const {key} = history.state;
    const first = !this.#turned;
    this.#turned = true;
    const kept = this.#kept.get(key);
    const page = kept ?? this.#make(key);
    this.#shown = page;
    this.#main.replaceChildren(page.node);
    document.title = page.title;
    scrollTo(0, kept?.scroll ?? 0);
    this.#focus(page, first, kept !== undefined);
    this.dispatchEvent(new Event("turn"));
  }

  /** The keyboard goes to a new page; at the first one of a visit it begins where every page begins. */
  #focus({node}, first, kept) {
    if (kept || node.contains(document.activeElement)) return;
    const wanted = node.querySelector("[data-focus]") ?? (first ? null : this.#main);
    wanted?.focus({preventScroll: true});
  }

  #make(key) {
    const url = new URL(location.href);
    const ending = new AbortController();
    const page = {key, ending, scroll: 0, title: "Glimpse", node: null};
    const [view, params] = this.#match(decodeURI(url.pathname));
    page.node = view({
      params,
      query: url.searchParams,
      hash: url.hash.slice(1),
      signal: ending.signal,
      /** Names the page, now or once it is known. */
      titled: (words) => {
        page.title = words ? `${words} · Glimpse` : "Glimpse";
        if (this.#shown === page) document.title = page.title;
        this.dispatchEvent(new Event("titled"));
      },
    });
    return page;
  }

  #match(path) {
    for (const [pattern, view] of this.#routes) {
      const found = pattern.exec(path);
      if (found) return [view, found.slice(1)];
    }
    throw new Error(`no route for ${path}`);   // the last one takes everything
  }
}
