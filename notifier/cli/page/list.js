// The rows of one person as a list: newest first, what is new and unread visible. All text goes through textContent.

import {ago, did, hue, initial, who} from "./words.js";

const TICK = 10_000;  // ms between two looks at the times

export class List {
  #list; #act; #items = new Map(); #timer;

  /** `list`: a ul. `act`: callbacks read(id), delete(id). */
  constructor(list, act) {
    [this.#list, this.#act] = [list, act];
    this.#timer = setInterval(() => this.#tick(), TICK);
  }

  /** Shows these rows. `seen`: the seq up to which they have been looked at; `fresh`: ids that have just come. */
  show(rows, seen, fresh) {
    const held = document.activeElement;
    this.#remove(new Set(rows.map(({id}) => id)));
    rows.forEach((row, at) => {
      const item = this.#item(row, row.seq <= seen, fresh.has(row.id));
      if (this.#list.children[at] !== item) this.#list.insertBefore(item, this.#list.children[at] ?? null);
    });
    if (this.#list.contains(held) && document.activeElement !== held) held.focus();  // its row has moved up
  }

  clear() {
    this.#items.clear();
    this.#list.replaceChildren();
  }

  close() {
    clearInterval(this.#timer);
  }

  #remove(kept) {
    for (const [id, {item}] of this.#items) {
      if (kept.has(id)) continue;
      if (item.contains(document.activeElement)) {
        // The keyboard stays where it was: on the next row, else on the list.
        const next = item.nextElementSibling ?? item.previousElementSibling;
        (next?.querySelector(".delete") ?? this.#list).focus();
      }
      item.remove();
      this.#items.delete(id);
    }
  }

  #item(row, seen, fresh) {
    const known = this.#items.get(row.id);
    if (known?.row === row && known.seen === seen) return known.item;
    const item = known?.item ?? this.#make(row.id);
    this.#items.set(row.id, {row, seen, item});
    item.className = [!row.read && "unread", !seen && "unseen", fresh && "fresh"].filter(Boolean).join(" ");
    fill(item, row, seen);
    return item;
  }

  #make(id) {
    const item = document.getElementById("row").content.firstElementChild.cloneNode(true);
    item.dataset.id = id;
    item.querySelector(".open").onclick = () => this.#act.read(id);
    item.querySelector(".delete").onclick = () => this.#act.delete(id);
    item.onanimationend = () => item.classList.remove("fresh");
    return item;
  }

  #tick() {
    for (const time of this.#list.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  }
}

function fill(item, row, seen) {
  const part = (name) => item.querySelector(name);
  const [name, happened, actor] = [who(row), did(row), row.actors[0]];
  part(".face").textContent = initial(actor.name || actor.id);
  part(".face").style.setProperty("--hue", hue(actor.id));
  part(".status").textContent = row.read ? "Read. " : `${seen ? "" : "New, "}unread. `.replace(/^u/, "U");
  part("b").textContent = name;
  part(".did").textContent = ` ${happened}`;
  part(".text").textContent = row.text ?? "";
  part(".text").hidden = !row.text;
  const time = part("time");
  time.dateTime = row.time;
  time.title = new Date(row.time).toLocaleString();
  time.textContent = ago(row.time);
  part(".new").hidden = seen;
  // Not `disabled`: that would throw the keyboard out of the list.
  part(".open").setAttribute("aria-disabled", row.read);
  part(".open").title = row.read ? "" : "Mark as read";
  part(".delete").setAttribute("aria-label", `Delete: ${name} ${happened}`);
}
