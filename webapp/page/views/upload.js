// Sharing a photo: drop, paste or choose it, see it, say something, watch it go.

import {newKey} from "../api.js";
import {icon, make, say} from "../element.js";
import {photos} from "../photos.js";
import {api, session} from "../session.js";
import {toast} from "../toasts.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];
const LONGEST = 2200;
const MEGA = 1024 * 1024;

export function upload({signal, titled}, {router}) {
  titled("Share a photo");
  return new Sharing(signal, router).node;
}

/** Why a file will not do, before it is sent; "" for one that may. The API looks closer. */
function refusal(file) {
  const most = session.site.max_bytes ?? 20 * MEGA;
  if (!TYPES.includes(file.type)) return `Glimpse takes JPEG, PNG and WebP; “${file.name}” is something else.`;
  if (file.size > most) return `“${file.name}” is ${(file.size / MEGA).toFixed(1)} MB; Glimpse takes up to ${Math.floor(most / MEGA)} MB.`;
  if (file.size === 0) return `“${file.name}” is empty.`;
  return "";
}

class Sharing {
  #router; #signal; #file = null; #url = null; #sending = null;
  #sent = null;                  // {file, caption, key} of the last one that is not known to be there

  constructor(signal, router) {
    [this.#signal, this.#router] = [signal, router];
    this.#build();
    this.#wire();
    signal.addEventListener("abort", () => { this.#sending?.abort(); this.#drop(); });
  }

  #build() {
    this.input = make("input.unseen", {type: "file", id: "file", accept: TYPES.join(","), "aria-describedby": "share-fault"});
    this.zone = make("label.zone", {htmlFor: "file"},
      icon("photo"), make("b", {}, make("span.mouse", {}, "Drop a photo here, or choose one"), make("span.touch", {}, "Choose a photo")),
      make("span.soft", {}, "JPEG, PNG or WebP"), make("span.plain", {"aria-hidden": "true"}, "Browse"));
    this.preview = make("div.preview", {hidden: true});
    this.fault = make("p.fault", {role: "alert", id: "share-fault"});
    this.caption = make("textarea", {
      id: "caption", name: "caption", rows: 3, maxLength: LONGEST, placeholder: "What is it a glimpse of?",
    });
    this.left = make("span.soft", {"aria-hidden": "true"}, `0 / ${LONGEST}`);
    this.bar = make("progress", {max: 1, value: 0, "aria-label": "Upload"});
    this.far = make("p.soft", {role: "status"});
    this.going = make("div.going", {hidden: true}, this.bar, this.far);
    this.share = make("button.primary", {type: "submit", disabled: true}, "Share");
    this.cancel = make("button.plain", {type: "button", hidden: true, onclick: () => this.#cancel()}, "Cancel");
    this.form = make("form.share", {noValidate: true},
      make("h1", {id: "page-title"}, "Share a photo"), this.input, this.zone, this.preview, this.fault,
      make("div.field", {}, make("label", {htmlFor: "caption"}, "Caption", this.left), this.caption),
      this.going, make("div.row", {}, this.share, this.cancel));
    this.node = make("section.narrow", {"aria-labelledby": "page-title"}, this.form);
  }

  #wire() {
    const signal = this.#signal;
    this.input.addEventListener("change", () => this.#take(this.input.files[0]));
    this.caption.addEventListener("input", () => { this.left.textContent = `${this.caption.value.length} / ${LONGEST}`; });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    // Anywhere on the page: nobody aims. And a photo dropped beside the zone must not replace the site.
    const over = (on) => this.zone.classList.toggle("over", on);
    for (const kind of ["dragenter", "dragover"]) {
      addEventListener(kind, (event) => { if (this.node.isConnected) { event.preventDefault(); over(true); } }, {signal});
    }
    addEventListener("dragleave", ({relatedTarget}) => { if (relatedTarget === null) over(false); }, {signal});
    addEventListener("drop", (event) => {
      if (!this.node.isConnected) return;
      event.preventDefault();
      over(false);
      this.#take(event.dataTransfer.files[0]);
    }, {signal});
    addEventListener("paste", ({clipboardData}) => {
      if (this.node.isConnected && clipboardData.files.length > 0) this.#take(clipboardData.files[0]);
    }, {signal});
  }

  #take(file) {
    if (!file || this.#sending) return;
    const fault = refusal(file);
    say(this.fault, fault);
    if (fault) return;
    this.#drop();
    this.#file = file;
    this.#url = URL.createObjectURL(file);
    const picture = make("img", {src: this.#url, alt: `Preview of ${file.name}`,
      onerror: () => { this.#drop(); say(this.fault, `“${file.name}” cannot be shown: is it a photo?`); }});
    const another = () => { this.#drop(); this.input.focus(); };
    const button = make("button.round", {type: "button", "aria-label": "Take another photo", onclick: another}, icon("close"));
    this.preview.replaceChildren(picture, button);
    this.preview.hidden = false;
    this.zone.hidden = true;
    this.share.disabled = false;
    this.caption.focus();
  }

  #drop() {
    if (this.#url !== null) URL.revokeObjectURL(this.#url);
    this.#file = this.#url = null;
    this.input.value = "";
    this.preview.replaceChildren();
    this.preview.hidden = true;
    this.zone.hidden = false;
    this.share.disabled = true;
  }

  async #send() {
    if (this.#file === null || this.#sending) return;
    const [file, caption] = [this.#file, this.caption.value.trim()];
    const form = new FormData();
    form.append("file", file, file.name);
    form.append("caption", caption);
    // The same once more after a failure is the same photo: it may be there, and only the answer was lost.
    if (this.#sent?.file !== file || this.#sent.caption !== caption) this.#sent = {file, caption, key: newKey()};
    this.#busy(new AbortController());
    try {
      const photo = await api.upload("POST", "/api/photos", form, {key: this.#sent.key, signal: this.#sending.signal, progress: (part) => this.#progress(part)});
      this.#sent = null;
      photos.keep([photo]);
      this.#busy(null);
      this.#drop();
      this.#router.go(`/p/${photo.id}`, {replace: true});
      toast("Your photo is up. Your followers can see it now.");
    } catch (fault) {
      this.#busy(null);
      if (fault.name !== "AbortError") say(this.fault, `Not shared. ${Object.values(fault.fields ?? {})[0] ?? fault.message}`);
    }
  }

  #cancel() {
    this.#sending?.abort();
  }

  #busy(sending) {
    this.#sending = sending;
    const on = sending !== null;
    this.going.hidden = this.cancel.hidden = !on;
    this.share.disabled = this.caption.readOnly = on;
    if (on) this.#progress(0);
    if (on) say(this.fault, "");
  }

  #progress(part) {
    // All is sent, but not all is done: the API makes the sizes now, and nobody knows for how long.
    if (part >= 1) this.bar.removeAttribute("value");
    else this.bar.value = part;
    const tenth = Math.floor(part * 10) * 10;
    say(this.far, part >= 1 ? "Developing your photo…" : `Uploading… ${tenth} %`);
  }
}
