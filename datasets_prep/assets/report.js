"use strict";
// Decisions about the images of the page. Opened as a file, they are kept in the browser and can be downloaded;
// served by `python -m datasets_prep review`, each is sent at once. Nothing of the data set is ever read as HTML.
(() => {
  const find = (id) => document.getElementById(id);
  const token = location.protocol === "http:" ? new URLSearchParams(location.search).get("token") : null;
  const storageKey = "datasets_prep " + document.querySelector("[data-set]").dataset.set;
  const cards = [...document.querySelectorAll("[data-sha]")];
  const bySha = new Map();
  for (const card of cards) bySha.set(card.dataset.sha, [...(bySha.get(card.dataset.sha) || []), card]);
  const captionOf = (sha) => bySha.get(sha).map((card) => card.querySelector(".caption")).find(Boolean);
  const nameOf = (card) => card.querySelector(".name").textContent;
  const originals = new Map();
  let log = [];
  let current = null;
  let saving = Promise.resolve();

  function counting(decisions) {
    const own = [];
    for (const decision of decisions) {
      if (decision.action !== "undo") { own.push(decision); continue; }
      for (let i = own.length - 1; i >= 0; i -= 1) {
        if (own[i].sha256 === decision.sha256) { own.splice(i, 1); break; }
      }
    }
    return own;
  }

  function say(text, isBad) {
    find("state").textContent = text;
    find("state").classList.toggle("bad", Boolean(isBad));
  }

  function sayCount() {
    const num = counting(log).length;
    const where = token ? "saved in decisions.jsonl" : "in this browser only, download to use them";
    say(num ? `${num} decision${num === 1 ? "" : "s"}, ${where}` : "No decisions yet");
  }

  function show(sha) {
    const own = counting(log.filter((decision) => decision.sha256 === sha));
    const verdict = own.filter((decision) => decision.action !== "caption").at(-1);
    const edit = own.filter((decision) => decision.action === "caption").at(-1);
    for (const card of bySha.get(sha) || []) {
      card.classList.toggle("keep", verdict !== undefined && verdict.action === "keep");
      card.classList.toggle("drop", verdict !== undefined && verdict.action === "drop");
      card.classList.toggle("edited", edit !== undefined);
      const caption = card.querySelector(".caption");
      if (!caption) continue;
      if (!originals.has(caption)) originals.set(caption, caption.textContent);
      caption.textContent = edit === undefined ? originals.get(caption) : edit.text;
    }
  }

  function showAll() {
    for (const sha of new Set(log.map((decision) => decision.sha256))) show(sha);
    sayCount();
  }

  function takeBack(decision) {
    log = log.filter((other) => other !== decision);
    show(decision.sha256);
  }

  async function send(decision) {
    try {
      const answer = await fetch("/decisions", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Token": token },
        body: JSON.stringify(decision),
      });
      if (!answer.ok) throw new Error(await answer.text());
      sayCount();
    } catch (error) {
      takeBack(decision);
      say(`Not saved: ${error instanceof TypeError ? "the review has ended" : error.message}`, true);
    }
  }

  function record(card, action, text) {
    const decision = { sha256: card.dataset.sha, source: nameOf(card), action };
    if (text !== undefined) decision.text = text;
    log.push(decision);
    show(decision.sha256);
    if (token) {
      saving = saving.then(() => send(decision));
      return;
    }
    sayCount();
    try {
      localStorage.setItem(storageKey, JSON.stringify(log));
    } catch {
      say("This browser keeps nothing for files: download the decisions before closing the page", true);
    }
  }

  function choose(card) {
    if (current) current.classList.remove("current");
    current = card;
    card.classList.add("current");
    card.scrollIntoView({ block: "nearest" });
    find("current").textContent = nameOf(card);
  }

  function move(step) {
    let at = cards.indexOf(current);
    if (at < 0) at = cards.findIndex((card) => card.checkVisibility() && card.getBoundingClientRect().bottom > 60) - step;
    for (at += step; at >= 0 && at < cards.length; at += step) {
      if (cards[at].checkVisibility()) { choose(cards[at]); return; }
    }
  }

  function judge(action) {
    if (!current) { say("Choose an image first: click one, or press j", true); return; }
    const sha = current.dataset.sha;
    const own = counting(log.filter((decision) => decision.sha256 === sha && decision.action !== "caption"));
    if (!own.length || own.at(-1).action !== action) record(current, action);
  }

  function edit() {
    if (!current) { say("Choose an image first: click one, or press j", true); return; }
    const caption = captionOf(current.dataset.sha);
    if (!caption) { say("This image has no caption on this page", true); return; }
    if ("cut" in caption.dataset) { say("This caption is too long to be edited here", true); return; }
    find("edited").textContent = nameOf(current);
    find("text").value = caption.textContent;
    find("editor").returnValue = "";
    find("editor").showModal();
    find("text").focus();
  }

  function saveEdit() {
    if (find("editor").returnValue !== "save") return;
    const text = find("text").value.trim();
    const before = captionOf(current.dataset.sha).textContent.replace(/\r\n?/g, "\n").trim(); // as a text field has it
    if (text !== before) record(current, "caption", text);
  }

  function undo() {
    const last = counting(log).at(-1);
    if (!last) { say("There is nothing to undo"); return; }
    const among = bySha.get(last.sha256) || [];
    const card = among.find((other) => other === current) || among.find((other) => other.checkVisibility()) || among[0];
    if (!card) { say("The last decision is about an image that this page does not show", true); return; }
    record(card, "undo");
    if (card.checkVisibility()) choose(card);
  }

  function enlarge() {
    if (!current) return;
    const small = current.querySelector(".t:not(.over)").cloneNode(true);
    if (token) {
      const image = new Image();
      image.alt = nameOf(current);
      image.onerror = () => image.replaceWith(small);
      image.src = `/picture/${current.dataset.sha}?token=${encodeURIComponent(token)}`;
      find("view").replaceChildren(image);
    } else {
      find("view").replaceChildren(small);
    }
    find("large").showModal();
  }

  function download() {
    const text = log.map((decision) => JSON.stringify(decision) + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = "decisions.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}'’-]+/gu, " ").trim();
  const rows = [...document.querySelectorAll("#captions > .row")];
  function filter() {
    const wanted = plain(find("search").value);
    const tag = find("tag").value;
    let num = 0;
    for (const row of rows) {
      const has = !tag || row.dataset.tags.split(" ").includes(tag) || row.classList.contains(tag === "dropped" ? "drop" : tag);
      row.hidden = !(has && (!wanted || plain(row.textContent).includes(wanted)));
      num += row.hidden ? 0 : 1;
    }
    find("found").textContent = `${num.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  }
  let waiting = 0;
  find("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  find("tag").addEventListener("change", filter);
  function search(text) {
    find("search").value = text;
    filter();
    find("list").scrollIntoView();
  }

  const actions = {
    j: () => move(1), k: () => move(-1), a: () => judge("keep"), x: () => judge("drop"), e: edit, u: undo, o: enlarge,
    "/": () => { find("list").scrollIntoView(); find("search").focus(); find("search").select(); },
  };
  const buttons = { previous: "k", next: "j", keep: "a", drop: "x", edit: "e", undo: "u", enlarge: "o" };
  for (const [id, key] of Object.entries(buttons)) find(id).addEventListener("click", actions[key]);
  find("download").addEventListener("click", download);
  find("editor").addEventListener("close", saveEdit);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "Escape" && typing && !document.querySelector("dialog[open]")) typing.blur();
    if (event.key === "Enter" && event.ctrlKey && event.target === find("text")) find("editor").close("save");
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("click", (event) => {
    const term = event.target.closest(".term");
    if (term) search(term.dataset.term);
    const card = event.target.closest("[data-sha]");
    if (!card) return;
    const again = card === current;
    choose(card);
    if (again && event.target.closest(".t")) enlarge();
  });

  async function start() {
    document.body.classList.add("scripted");
    find("bar").hidden = false;
    document.querySelector(".filters").hidden = false;
    filter();
    if (token) {
      find("download").hidden = true;
      try {
        const answer = await fetch("/decisions", { headers: { "X-Token": token } });
        if (!answer.ok) throw new Error(await answer.text());
        log = [...await answer.json(), ...log];
      } catch (error) {
        say(`Earlier decisions could not be read: ${error.message}`, true);
        return;
      }
    } else {
      try {
        log = JSON.parse(localStorage.getItem(storageKey)) || [];
      } catch {
        log = [];
      }
    }
    showAll();
  }
  start();
})();
