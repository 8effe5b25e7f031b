// Glimpse: which page stands at which address, and what goes on around it.

import {Bell} from "./bell.js";
import {logInAgain} from "./dialogs.js";
import {face, people} from "./people.js";
import {Phones} from "./phones.js";
import {photos} from "./photos.js";
import {Router} from "./router.js";
import {api, session} from "./session.js";
import {discover} from "./views/discover.js";
import {feed} from "./views/feed.js";
import {photo} from "./views/photo.js";
import {profile} from "./views/profile.js";
import {search} from "./views/search.js";
import {missing, settings} from "./views/settings.js";
import {upload} from "./views/upload.js";
import {login, signup, welcome} from "./views/welcome.js";
import {keepTimes} from "./words.js";

const AGAIN = 5_000;             // ms until the site is asked again where its bell is

const given = (view) => (visit) => view(visit, {router});
/** For those who are signed in; others come back here when they are. */
const members = (view) => (visit) => (session.me === null
  ? login({...visit, query: new URLSearchParams({next: location.pathname + location.search})})
  : view(visit, {router}));
const strangers = (view) => (visit) => (session.me === null ? view(visit) : feed(visit));

const router = new Router([
  [/^\/$/, (visit) => (session.me === null ? welcome(visit) : feed(visit))],
  [/^\/discover$/, given(discover)],
  [/^\/search$/, given(search)],
  [/^\/p\/(\d{1,19})$/, given(photo)],
  [/^\/u\/([A-Za-z0-9_.]{1,30})$/, given(profile)],
  [/^\/upload$/, members(upload)],
  [/^\/settings$/, members(settings)],
  [/^\/login$/, strangers(login)],
  [/^\/signup$/, strangers(signup)],
  [/^/, given(missing)],
], document.getElementById("main"));

const bell = new Bell();
const phones = new Phones();

/** The frame around the pages: whose it is, and where one is in it. */
function frame() {
  const {me} = session;
  document.body.dataset.signed = me === null ? "out" : "in";
  const own = document.getElementById("own");
  own.href = me === null ? "/login" : `/u/${me.name}`;
  own.querySelector(".place").replaceChildren(...(me === null ? [] : [face(me, "tiny")]));
  for (const link of document.querySelectorAll("#ways a, .settings")) {
    if (new URL(link.href).pathname === location.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Asks the site where its parts are, and connects whoever is signed in. */
async function connect() {
  bell.close();
  phones.close();
  if (session.me === null) return;
  const {id} = session.me;
  try {
    session.site = await api.get("/api/site");
  } catch {
    setTimeout(() => { if (session.me?.id === id) connect(); }, AGAIN);
    return;
  }
  if (session.me?.id !== id) return;
  bell.open(session.site);
  phones.open(session.site);
}

session.addEventListener("change", () => {
  photos.clear();
  people.clear();
  document.getElementById("toasts").replaceChildren();
  router.renew(session.me === null ? "/" : undefined);
  frame();
  connect();
});
session.addEventListener("person", frame);
router.addEventListener("turn", () => { frame(); bell.titled(); });
router.addEventListener("titled", () => bell.titled());

session.ask = logInAgain;
session.restore();
document.documentElement.dataset.ready = "";
router.start();
connect();
keepTimes();
if (session.me !== null) api.get("/api/me").then((me) => session.update(me), () => {});
