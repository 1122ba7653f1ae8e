// The boards on the stage: clicks, keys and arrows. The server answers with a new stage.
const COLUMNS = (board) => board.querySelector('[role="row"]').children.length;
let selected = null; // {lane, place} of the cell that was focused last
let picked = null; // the cell whose content is being moved
let newest = 0; // the number of the newest picture
let restore = false; // whether the next stage gets the focus back

function cellAt(lane, place) {
  return element.querySelector(`[data-lane="${lane}"] [data-place="${place}"]`);
}

function select(cell) {
  selected = {lane: Number(cell.closest("[data-lane]").dataset.lane), place: Number(cell.dataset.place)};
  const board = cell.closest('[role="grid"]');
  board.querySelectorAll('[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
  cell.tabIndex = 0;
  cell.focus();
}

function send(data) {
  restore = true;
  trigger("input", {...selected, ...data});
}

element.addEventListener("click", (event) => {
  const key = event.target.closest("[data-key]");
  if (key) {
    if (selected) send({key: key.dataset.key});
    return;
  }
  const cell = event.target.closest("[data-place]");
  if (!cell) return;
  select(cell);
  const board = cell.closest('[role="grid"]');
  const {press, moved} = board.dataset; // the key that a click stands for; the selector of what moves between cells
  if (press) send({key: press});
  if (!moved) return;
  const origin = picked;
  element.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
  picked = null;
  if (origin && origin.lane === selected.lane && origin.place !== selected.place) {
    send({origin: origin.place});
  } else if (!origin && cell.querySelector(moved)) {
    picked = {...selected};
    cell.classList.add("picked");
  }
});

element.addEventListener("keydown", (event) => {
  const cell = event.target.closest("[data-place]");
  if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
  const cells = [...cell.closest('[role="grid"]').querySelectorAll("[data-place]")];
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS(cell.closest('[role="grid"]')),
    ArrowDown: COLUMNS(cell.closest('[role="grid"]'))}[event.key];
  if (step) {
    const next = cells[cells.indexOf(cell) + step];
    if (next) select(next);
    event.preventDefault();
  } else if (event.key === "Enter") {
    cell.click();
    event.preventDefault();
  } else if (event.key.length === 1 || event.key === "Backspace" || event.key === "Delete") {
    select(cell);
    send({key: event.key});
    event.preventDefault();
  }
});

new MutationObserver(() => {
  const number = Number(element.querySelector("[data-picture]")?.dataset.picture ?? newest);
  if (number < newest) trigger("select"); // an older picture came after a newer one
  newest = Math.max(number, newest);
  if (!restore || !selected) return;
  restore = false;
  const cell = cellAt(selected.lane, selected.place);
  if (cell) select(cell);
}).observe(element, {childList: true, subtree: true});
