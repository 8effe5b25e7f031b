// The comments of a photo, oldest first, with a field for one more. What one writes is there at once.

import {newKey} from "./api.js";
import {icon, make, say} from "./element.js";
import {trouble} from "./endless.js";
import {face} from "./people.js";
import {photos} from "./photos.js";
import {api, knock, session} from "./session.js";
import {toast} from "./toasts.js";
import {counted, linked, when} from "./words.js";

const LONGEST = 1000;
const PAGE = 20;

/** `open`: the list is shown from the beginning; else a button shows it. `node` to put in, `write()` for the keyboard. */
export class Comments {
  #id; #owner; #signal; #target; #list; #earlier; #toggle; #form; #field; #fault; #send;
  #cursor = null; #opened = false;
  #sent = null;                  // {text, key} of the last one that is not known to be there

  constructor(photo, {signal, open = false, target = ""}) {
    [this.#id, this.#owner, this.#signal, this.#target] = [photo.id, photo.owner.id, signal, target];
    this.#list = make("ul.comments", {"aria-label": "Comments", hidden: true});
    this.#earlier = make("button.quiet", {type: "button", hidden: true, onclick: () => this.#load()}, "Show earlier comments");
    this.#toggle = make("button.quiet", {type: "button", hidden: true, onclick: () => this.open()});
    this.#form = this.#writing();
    this.node = make("div.discussion", {}, this.#toggle, this.#earlier, this.#list, this.#form);
    this.#count(photo);
    photos.watch(this.#id, (now) => now && this.#count(now), signal);
    photos.addEventListener(`comments ${this.#id}`, () => this.#opened && this.#renew(), {signal});
    if (open) this.open();
  }

  /** Shows the list. */
  async open() {
    if (this.#opened) return;
    this.#opened = true;
    this.#toggle.hidden = true;
    this.#list.hidden = false;
    await this.#load();
  }

  /** To the field for one more. */
  write() {
    if (session.me === null) return knock();
    this.open();
    return this.#field.focus();
  }

  // -- the list

  #count({comments}) {
    this.#toggle.hidden = this.#opened || comments === 0;
    this.#toggle.textContent = comments === 1 ? "View the comment" : `View all ${counted(comments, "comment")}`;
  }

  #page(cursor) {
    const query = new URLSearchParams({limit: PAGE, ...(cursor === null ? {} : {cursor})});
    return api.get(`/api/photos/${this.#id}/comments?${query}`, {signal: this.#signal});
  }

  async #load() {
    this.#earlier.disabled = true;
    const bones = bonesOfComments();
    this.#list.prepend(bones);
    try {
      const page = await this.#page(this.#cursor);
      this.#cursor = page.next;
      this.#add(page.items);
      this.#earlier.hidden = page.next === null;
    } catch (fault) {
      if (this.#signal.aborted) return;
      const again = make("li", {}, trouble(fault, () => { again.remove(); this.#load(); }));
      this.#list.prepend(again);
    } finally {
      bones.remove();
      this.#earlier.disabled = false;
    }
    this.#seek();
  }

  /** Shows the comment that the address names; one that is older than those here is fetched first. */
  #seek() {
    if (!this.#target) return;
    const found = this.#list.querySelector(`#${CSS.escape(this.#target)}`);
    const oldest = this.#list.querySelector("[data-id]")?.dataset.id;
    if (!found && this.#cursor !== null && oldest && byAge(this.#target.slice(1), oldest) < 0) {
      this.#load();
      return;
    }
    found?.scrollIntoView({block: "center"});
    this.#target = "";
  }

  /** The newest ones again: somebody has commented, or taken a comment back. */
  async #renew() {
    try {
      const {items, next} = await this.#page(null);
      const ids = new Set(items.map(({id}) => id));
      const oldest = items.map(({id}) => id).sort(byAge)[0];
      for (const item of this.#list.querySelectorAll("[data-id]")) {
        const gone = !ids.has(item.dataset.id) && (next === null || byAge(item.dataset.id, oldest) >= 0);
        if (gone) item.remove();
      }
      this.#add(items);
    } catch { /* the next look will show it */ }
  }

  /** Puts comments where they belong by age; ids grow with it. */
  #add(comments) {
    for (const comment of comments) {
      if (this.#list.querySelector(`[data-id="${CSS.escape(comment.id)}"]`)) continue;
      const later = [...this.#list.querySelectorAll("[data-id]")].find(({dataset}) => byAge(dataset.id, comment.id) > 0);
      this.#list.insertBefore(this.#item(comment), later ?? this.#list.querySelector(".pending"));
    }
  }

  #item(comment) {
    const {id, author, text, created, mine} = comment;
    const node = make("li.comment", {id: `c${id}`},
      make("a", {href: `/u/${author.name}`, tabIndex: -1, "aria-hidden": "true"}, face(author, "small")),
      make("div.said", {},
        make("p", {}, make("a.by", {href: `/u/${author.name}`}, author.name), " ", ...linked(text)),
        make("p.soft", {}, when(created, {short: true}))),
      (mine || session.me?.id === this.#owner) && make("button.round.faint", {
        type: "button", onclick: () => this.#delete(node, id),
        "aria-label": mine ? "Delete your comment" : `Delete the comment of ${author.name}`,
      }, icon("trash")));
    node.dataset.id = id;
    if (this.#target === `c${id}`) node.classList.add("target");
    return node;
  }

  async #delete(node, id) {
    const next = node.nextElementSibling;
    node.remove();
    this.#field?.focus({preventScroll: true});
    photos.commented(this.#id, -1);
    try {
      await api.delete(`/api/photos/${this.#id}/comments/${id}`);
    } catch (fault) {
      if (fault.status === 404) return;
      this.#list.insertBefore(node, next?.parentNode === this.#list ? next : null);
      photos.commented(this.#id, 1);
      toast(`The comment could not be deleted. ${fault.message}`, {tone: "fault"});
    }
  }

  // -- one more

  #writing() {
    if (session.me === null) return make("p.soft.invite", {}, make("a", {href: "/login"}, "Log in"), " to comment.");
    this.#field = make("textarea", {
      rows: 1, maxLength: LONGEST, placeholder: "Add a comment…", "aria-label": "Add a comment", enterKeyHint: "send",
    });
    this.#send = make("button.quiet", {type: "submit", disabled: true}, "Post");
    this.#fault = make("p.fault", {role: "alert"});
    const form = make("form.write", {noValidate: true}, face(session.me, "small"), this.#field, this.#send, this.#fault);
    this.#field.addEventListener("input", () => {
      this.#send.disabled = this.#field.value.trim() === "";
      say(this.#fault, "");
    });
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#field.value.trim();
      if (text) this.#post(text);
    });
    return form;
  }

  async #post(text) {
    const pending = this.#pending(text);
    this.open();
    this.#list.append(pending);
    this.#type("");
    photos.commented(this.#id, 1);
    // The same once more after a failure is the same comment: it may be there, and only the answer was lost.
    const sent = this.#sent = this.#sent?.text === text ? this.#sent : {text, key: newKey()};
    try {
      const comment = await api.post(`/api/photos/${this.#id}/comments`, {text}, {key: sent.key});
      if (this.#sent === sent) this.#sent = null;
      pending.remove();
      this.#add([comment]);
    } catch (fault) {
      pending.remove();
      photos.commented(this.#id, -1);
      if (this.#field.value.trim() === "") this.#type(text);
      say(this.#fault, `Not posted. ${fault.message}`);
    }
  }

  #type(text) {
    this.#field.value = text;
    this.#send.disabled = text === "";
    say(this.#fault, "");
  }

  #pending(text) {
    return make("li.comment.pending", {}, face(session.me, "small"),
      make("div.said", {}, make("p", {}, make("b.by", {}, session.me.name), " ", ...linked(text)), make("p.soft", {}, "posting…")));
  }
}

/** Ids are numbers of up to 63 bits, as text. */
const byAge = (one, two) => one.length - two.length || (one < two ? -1 : Number(one > two));

function bonesOfComments() {
  return make("li.bones", {"aria-hidden": "true"}, make("div.bone.line"), make("div.bone.line.shorter"));
}
