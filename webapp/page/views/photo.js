// One photo, with all that was said about it.

import {actions, byline, caption} from "../card.js";
import {Comments} from "../comments.js";
import {sure} from "../dialogs.js";
import {icon, make} from "../element.js";
import {nothing, trouble} from "../endless.js";
import {photos} from "../photos.js";
import {largePicture} from "../picture.js";
import {api, session} from "../session.js";
import {toast} from "../toasts.js";
import {described} from "../words.js";

export function photo({params: [id], hash, signal, titled}, {router}) {
  const node = make("section.one", {"aria-labelledby": "page-title"});
  const heading = (words) => make("h1.unseen", {id: "page-title"}, words);
  const show = (known) => {
    titled(described(known));
    const comments = new Comments(known, {signal, open: true, target: hash});
    const mine = session.me?.id === known.owner.id;
    node.replaceChildren(heading(described(known)), make("article.single", {},
      make("div.stage", {}, largePicture(known, {now: true})),
      make("div.side", {},
        byline(known, mine && remove(id, router)), actions(known, comments, signal), caption(known), comments.node)));
  };
  const load = async () => {
    if (node.childElementCount === 0) node.append(heading("Photo"), bones());
    try {
      const [known] = photos.keep([await api.get(`/api/photos/${encodeURIComponent(id)}`, {signal})]);
      if (!node.querySelector(".single")) show(known);
    } catch (fault) {
      if (signal.aborted || (node.querySelector(".single") && fault.status !== 404)) return;
      node.replaceChildren(heading("Photo"), fault.status === 404 ? gone() : trouble(fault, () => { node.replaceChildren(); load(); }));
    }
  };
  titled("Photo");
  const known = photos.get(id);
  if (known) show(known);
  load();
  photos.watch(id, (now) => { if (now === null) node.replaceChildren(heading("Photo"), gone()); }, signal);
  return node;
}

function gone() {
  return nothing("This photo is gone", "It was taken down, or it never was here.", make("a.primary", {href: "/"}, "Back home"));
}

function remove(id, router) {
  const button = make("button.round.faint", {type: "button", "aria-label": "Delete this photo", onclick: async () => {
    if (!await sure("Delete this photo?", {words: "Its likes and comments go with it. This cannot be undone.", yes: "Delete"})) return;
    button.disabled = true;
    try {
      await photos.delete(id);
      router.go(`/u/${session.me.name}`, {replace: true});
      toast("Your photo is deleted.");
    } catch (fault) {
      button.disabled = false;
      toast(`Your photo is still here. ${fault.message}`, {tone: "fault"});
    }
  }}, icon("trash"));
  return button;
}

function bones() {
  return make("div.bones", {"aria-hidden": "true"}, make("div.stage", {}, make("div.picture.bone")),
    make("div.side", {}, make("div.bone.line"), make("div.bone.line.shorter")));
}
