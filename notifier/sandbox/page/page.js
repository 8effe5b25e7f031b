// The phones, as the sandbox says they look. ?tokens=a,b shows those alone, also before anything came.
const EVERY_MS = 700;
const MOST = 12;

const wanted = (new URLSearchParams(location.search).get("tokens") ?? "").split(",").filter(Boolean);
const phones = document.getElementById("phones");
const sum = document.getElementById("sum");
const shapes = new Map();
const known = new Map();
if (window !== window.top) document.documentElement.classList.add("framed");

function element(name, text, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function hour(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function row(push) {
  const made = document.createElement("li");
  const head = element("div", "", "head");
  head.append(element("span", push.data?.kind || "notifier"), element("span", hour(push.at)));
  made.append(head);
  if (push.title) made.append(element("b", push.title));
  if (push.text) made.append(element("p", push.text));
  return made;
}

function shape(phone) {
  if (!shapes.has(phone.token)) {
    const made = document.getElementById("phone").content.firstElementChild.cloneNode(true);
    made.querySelector(".token").textContent = phone.token.length > 18 ? `${phone.token.slice(0, 16)}…` : phone.token;
    made.querySelector(".token").title = phone.token;
    phones.append(made);
    shapes.set(phone.token, made);
  }
  return shapes.get(phone.token);
}

function facts(phone) {
  const said = [`${phone.pushes} ${phone.pushes === 1 ? "push" : "pushes"}`];
  if (phone.silent) said.push(`${phone.silent} silent`);
  if (phone.shown_twice) said.push(`${phone.shown_twice} shown twice`);
  if (phone.sounded_twice) said.push(`${phone.sounded_twice} sounded twice`);
  return said.join(" · ");
}

function draw(phone) {
  const now = JSON.stringify(phone);
  if (known.get(phone.token) === now) return;
  known.set(phone.token, now);
  const made = shape(phone);
  made.classList.toggle("android", phone.platform === "android");
  const name = phone.platform === "android" ? "Android" : "iPhone";
  made.setAttribute("aria-label", `${name} ${phone.token.slice(0, 8)}, badge ${phone.badge}`);
  made.querySelector(".kind").textContent = name;
  made.querySelector(".clock").textContent = hour(Date.now() / 1000);
  made.querySelector(".shown").replaceChildren(...phone.shown.map(row));
  made.querySelector(".none").hidden = phone.shown.length > 0;
  made.querySelector(".badge").textContent = phone.badge || "";
  const bad = made.querySelector(".facts");
  bad.textContent = facts(phone);
  bad.classList.toggle("bad", phone.shown_twice > 0);
}

function blank(token) {
  const platform = /^[0-9a-f]+$/.test(token) ? "ios" : "android";
  return { token, platform, badge: 0, pushes: 0, silent: 0, shown_twice: 0, sounded_twice: 0, shown: [] };
}

async function those(tokens) {
  const { devices } = await (await fetch(`/devices?${new URLSearchParams({ tokens: tokens.join(",") })}`)).json();
  return tokens.map((token) => devices.find((phone) => phone.token === token) ?? blank(token));
}

async function look() {
  try {
    if (wanted.length) {
      for (const phone of await those(wanted)) draw(phone);
    } else {
      const { devices, count } = await (await fetch("/devices")).json();
      for (const phone of devices.slice(0, MOST)) draw(phone);
      const more = count > MOST ? `, the last ${MOST} of them here` : "";
      if (count) sum.textContent = `${count} ${count === 1 ? "device" : "devices"} pushed to${more}`;
    }
  } catch {
    sum.textContent = "The sandbox does not answer; trying again…";
  }
  setTimeout(look, EVERY_MS);
}

look();
