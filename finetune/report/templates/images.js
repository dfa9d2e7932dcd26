"use strict";
document.documentElement.classList.add("scripted");

for (const slide of document.querySelectorAll(".slide")) {
  const range = slide.querySelector("input");
  const move = () => {
    slide.style.setProperty("--at", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % before");
  };
  range.addEventListener("input", move);
  move();
}

for (const part of document.querySelectorAll(".gallery")) {
  const stage = part.querySelector(".stage");
  const rows = [...part.querySelectorAll("tr.shots")].map((row) => [...row.cells]);
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  let at = [0, 0];

  const fill = (figure, cell) => {
    const image = cell.querySelector("img");
    const shown = image ? new Image() : document.createElement("div");
    if (image) shown.src = image.src;
    else Object.assign(shown, { className: "none", textContent: cell.textContent.trim() });
    shown.alt = cell.dataset.column;
    figure.firstElementChild.replaceWith(shown);
    figure.lastElementChild.textContent = cell.dataset.column;
  };

  const show = (row, column) => {
    rows[at[0]][at[1]].classList.remove("current");
    rows[at[0]][at[1]].tabIndex = -1;
    at = [row, column];
    const cell = rows[row][column];
    cell.classList.add("current");
    cell.tabIndex = 0;
    const [before, after] = stage.querySelectorAll("figure");
    fill(before, rows[row][0]);
    fill(after, cell);
    stage.querySelector(".where").textContent = cell.parentElement.dataset.prompt;
  };

  rows.forEach((row, number) =>
    row.forEach((cell, column) => {
      cell.tabIndex = -1;
      cell.addEventListener("focus", () => show(number, column));
      cell.addEventListener("choose", () => show(number, column));
      cell.addEventListener("click", () => cell.focus({ preventScroll: true }));
    }),
  );
  part.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || !event.target.closest("td") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const row = Math.min(Math.max(at[0] + step[0], 0), rows.length - 1);
    const column = Math.min(Math.max(at[1] + step[1], 0), rows[row].length - 1);
    rows[row][column].focus();
  });
  show(0, Number(part.dataset.chosen));
}

for (const part of document.querySelectorAll(".switched")) {
  const choices = [...part.querySelectorAll(".choice")];
  const buttons = [...part.querySelectorAll(".switch input")];
  let at = 0;

  // The new gallery continues at the same prompt and step, where it has them.
  const follow = (from, to) => {
    const prompt = from.parentElement.dataset.prompt;
    const row = [...to.querySelectorAll("tr.shots")].find((each) => each.dataset.prompt === prompt);
    if (!row) return;
    const same = [...row.cells].find((cell) => cell.dataset.column === from.dataset.column);
    (same ?? row.cells[Math.min(from.cellIndex, row.cells.length - 1)]).dispatchEvent(new Event("choose"));
  };

  const choose = (number) => {
    follow(choices[at].querySelector("td.current"), choices[number]);
    at = number;
    choices.forEach((choice, other) => { choice.hidden = other !== number; });
  };

  buttons.forEach((button, number) => button.addEventListener("change", () => choose(number)));
  if (buttons.length) choose(Math.max(buttons.findIndex((button) => button.checked), 0));
}
