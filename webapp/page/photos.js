// The photos that this page knows, each in one place: whoever shows one hears of its changes.

import {Intents} from "./intent.js";
import {api} from "./session.js";
import {toast} from "./toasts.js";

const SOON = 250;                // ms from hearing of something to looking at the photo it was done to
const LATER = 2_000;             // ms until one looks once more, if nothing was to be seen
const MOST = 1000;               // photos kept; beyond it the ones longest unseen go

class Photos extends EventTarget {
  #known = new Map(); #intents = new Intents(); #looks = new Map();

  /** Takes photos in as the API gave them. */
  keep(photos) {
    for (const photo of photos) {
      const held = this.#known.get(photo.id);
      // A wish under way stays on show: the answer may be older.
      const mine = held && this.#intents.has(photo.id) ? {liked: held.liked, likes: held.likes} : {};
      this.#known.delete(photo.id);
      this.#known.set(photo.id, {...photo, ...mine});
      if (held) this.#tell(photo.id);
    }
    for (const id of this.#known.keys()) {
      if (this.#known.size <= MOST) break;
      this.#known.delete(id);
    }
    return photos.map(({id}) => this.#known.get(id));
  }

  get(id) { return this.#known.get(id); }

  /** Calls back with the photo whenever it changes, and with null once it is deleted. */
  watch(id, changed, signal) {
    this.addEventListener(id, () => changed(this.#known.get(id) ?? null), {signal});
  }

  /** Likes or unlikes: at once here, then there; back again if that fails. */
  async like(id, liked) {
    const photo = this.#known.get(id);
    if (photo === undefined || photo.liked === liked) return;
    const before = photo.liked;
    this.#show(id, liked);
    const path = `/api/photos/${id}/like`;
    const end = await this.#intents.want(id, before, liked, (on) => (on ? api.put(path) : api.delete(path)));
    if (end === null || end.fault === null) return;
    this.#show(id, end.on);
    toast(`Your like could not be ${liked ? "saved" : "taken back"}. ${end.fault.message}`, {
      tone: "fault", action: "Try again", act: () => this.like(id, liked),
    });
  }

  /** A comment has come (1) or gone (-1). */
  commented(id, change) {
    const photo = this.#known.get(id);
    if (photo === undefined) return;
    this.#known.set(id, {...photo, comments: Math.max(0, photo.comments + change)});
    this.#tell(id);
  }

  /** Looks again at a photo that is known, because somebody did something to it: once for all that come together. */
  refresh(id) {
    if (this.#known.has(id)) this.#plan(id, SOON, LATER);
  }

  #plan(id, delay, ...more) {
    clearTimeout(this.#looks.get(id));
    this.#looks.set(id, setTimeout(() => this.#look(id, ...more), delay));
  }

  async #look(id, again = null) {
    const before = this.#known.get(id);
    if (before === undefined) return;
    try {
      const [now] = this.keep([await api.get(`/api/photos/${id}`)]);
      this.dispatchEvent(new Event(`comments ${id}`));
      // The bell may be ahead of the database that was asked.
      if (again !== null && now.likes === before.likes && now.comments === before.comments) this.#plan(id, again);
    } catch { /* it is only a look; what is shown was true a moment ago */ }
  }

  async delete(id) {
    await api.delete(`/api/photos/${id}`);
    this.#known.delete(id);
    this.#tell(id);
  }

  /** Somebody else is signed in: they see other likes. */
  clear() { this.#known.clear(); }

  #show(id, liked) {
    const photo = this.#known.get(id);
    if (photo === undefined || photo.liked === liked) return;
    this.#known.set(id, {...photo, liked, likes: Math.max(0, photo.likes + (liked ? 1 : -1))});
    this.#tell(id);
  }

  #tell(id) {
    this.dispatchEvent(new Event(id));
  }
}

export const photos = new Photos();
