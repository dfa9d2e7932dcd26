"use strict";
// Shows a pair at a time and sends each vote at once. Prompts and results are text, never HTML.
(() => {
  const find = (id) => document.getElementById(id);
  const token = new URLSearchParams(location.search).get("token");
  const votes = { 1: "left", 2: "right", 0: "none" };
  let pair = null;
  let isBusy = true;

  function say(text) {
    find("state").textContent = text;
  }

  function cell(row, kind, text) {
    row.appendChild(document.createElement(kind)).textContent = text;
  }

  function showResult(state) {
    const result = find("result");
    result.replaceChildren();
    for (const line of state.result) result.appendChild(document.createElement("p")).textContent = line;
    const table = result.appendChild(document.createElement("table"));
    const head = table.insertRow();
    for (const title of ["first", "neither", "second", "prompt"]) cell(head, "th", title);
    for (const each of state.prompts) {
      const row = table.insertRow();
      for (const name of ["first", "neither", "second", "prompt"]) cell(row, "td", each[name]);
    }
  }

  function load(side) {
    const image = find(side);
    image.src = `/image/${pair.id}/${side}?token=${encodeURIComponent(token)}`;
    return image.decode();
  }

  async function show(state) {
    pair = state.pair;
    for (const id of ["pair", "keys"]) find(id).hidden = pair === null;
    find("result").hidden = pair !== null;
    find("prompt").textContent = pair ? pair.prompt : "";
    find("question").textContent = pair ? "Which image is better?" : "All pairs have a vote";
    find("progress").max = state.total;
    find("progress").value = state.done;
    find("count").textContent = `${state.done} of ${state.total}`;
    find("undo").disabled = state.done === 0;
    if (pair === null) {
      showResult(state);
    } else {
      document.body.classList.add("waiting"); // both appear at once, so neither is judged by its loading
      try {
        await Promise.all([load("left"), load("right")]);
      } catch {
        say("An image cannot be shown; give no vote and draw it again");
      }
      document.body.classList.remove("waiting");
    }
    isBusy = false;
  }

  async function request(path, value) {
    isBusy = true;
    try {
      const headers = { "Content-Type": "application/json", "X-Token": token };
      const given = value === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(value) };
      const answer = await fetch(path, given);
      if (!answer.ok) throw new Error(await answer.text());
      say("");
      await show(await answer.json());
    } catch (error) {
      say(`Not saved: ${error instanceof TypeError ? "the comparison has ended" : error.message}`);
      isBusy = false;
    }
  }

  function vote(choice) {
    if (!isBusy && pair !== null) request("/votes", { pair: pair.id, vote: choice });
  }

  function undo() {
    if (!isBusy && !find("undo").disabled) request("/undo", {});
  }

  for (const button of document.querySelectorAll("[data-vote]")) {
    button.addEventListener("click", () => { button.blur(); vote(button.dataset.vote); });
  }
  find("undo").addEventListener("click", undo);
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in votes) vote(votes[event.key]);
    else if (event.key === "u" || event.key === "Backspace") undo();
  });
  request("/state");
})();
