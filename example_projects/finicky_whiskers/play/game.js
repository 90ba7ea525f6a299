// The page of the game: what is shown, the clock, and one request per click.
//
// The server counts. A click is shown at once by what the menu says, the points are those that come
// back. Clicks go out one after the other, because each has a number and they count in order.

const api = (path, options) => fetch(new URL(`../${path}`, import.meta.url), { cache: "no-store", ...options });
const $ = (id) => document.getElementById(id);

const treats = [...document.querySelectorAll(".treat")];
const cat = $("cat");

const seconds = new URLSearchParams(location.search).get("seconds"); // of a round; without it the session decides

let round = null; // {id, menu, next: index of the wish shown, ends: ms of performance.now, sent: promise}
let ticking = 0;
let moodTimer = 0;
let instances = 0;

// ---------------------------------------------------------------- requests

/** One request to a guest; resolves to its JSON, throws an Error with the guest's own words. */
async function call(path, options) {
  countInstances(1);
  const response = await api(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.error ?? `the server says ${response.status}`), { status: response.status });
  return body;
}

function countInstances(more) {
  instances += more;
  $("instances").textContent = instances;
}

// ------------------------------------------------------------------- scenes

function scene(name) {
  document.body.dataset.scene = name;
}

function mood(name, milliseconds) {
  clearTimeout(moodTimer);
  cat.dataset.mood = name;
  if (milliseconds) moodTimer = setTimeout(() => { cat.dataset.mood = "waiting"; }, milliseconds);
}

function say(text) {
  $("said").textContent = text;
}

function trouble(error) {
  $("trouble").textContent = error ? `Something went wrong: ${error.message}.` : "";
}

function again(element, name) {
  element.classList.remove(name);
  void element.getBoundingClientRect(); // so that the animation starts over
  element.classList.add(name);
}

// -------------------------------------------------------------------- round

async function start() {
  $("start").disabled = $("again").disabled = true;
  trouble(null);
  try {
    const begun = await call(seconds === null ? "session" : `session?seconds=${encodeURIComponent(seconds)}`, { method: "POST" });
    const length = begun.seconds * 1000;
    round = { id: begun.id, menu: begun.menu, next: 0, length, ends: performance.now() + length, sent: Promise.resolve() };
    $("points").textContent = 0;
    scene("play");
    mood("waiting");
    wish();
    tick();
    treats[0].focus({ preventScroll: true });
  } catch (error) {
    trouble(error);
  } finally {
    $("start").disabled = $("again").disabled = false;
  }
}

function wanted() {
  return round.menu[round.next % round.menu.length];
}

function wish() {
  $("wish-name").textContent = wanted();
  $("wish-art").setAttribute("href", `#${wanted()}`);
  again($("wish"), "fresh");
  say(`She wants ${wanted()}.`);
}

function tick() {
  const left = Math.max(0, round.ends - performance.now());
  $("seconds").textContent = Math.ceil(left / 1000);
  $("ring").setAttribute("stroke-dashoffset", 100 - (100 * left) / round.length);
  $("ring").closest(".clock").classList.toggle("soon", left < 5000);
  if (left) ticking = requestAnimationFrame(tick);
  else finish();
}

function offer(button) {
  if (!round || document.body.dataset.scene !== "play") return;
  const treat = button.dataset.treat;
  const correct = treat === wanted();
  const number = round.next++;

  mood(correct ? "happy" : "cross", correct ? 450 : 700);
  spark(correct ? "+10" : "−5", !correct);
  for (const other of treats) other.classList.remove("right", "wrong");
  again(button, correct ? "right" : "wrong");
  wish();

  const { id } = round;
  round.sent = round.sent
    .then(() => call(`tally?id=${id}&n=${number}&treat=${treat}`, { method: "POST" }))
    .then((counts) => { $("points").textContent = counts.points; })
    .catch((error) => { if (error.status !== 410) trouble(error); });
}

function spark(text, bad) {
  const element = document.createElement("span");
  element.className = bad ? "spark bad" : "spark";
  element.textContent = text;
  element.addEventListener("animationend", () => element.remove());
  $("sparks").append(element);
}

async function finish() {
  cancelAnimationFrame(ticking);
  const over = round;
  const { id } = over;
  scene("over");
  mood("asleep");
  $("enter").hidden = false;
  $("enter").dataset.round = id;
  say("Time is up.");
  for (const button of treats) button.classList.remove("right", "wrong");
  await over.sent;
  try {
    const counts = await call(`score?id=${id}`);
    if (round !== over) return; // playing again
    $("points").textContent = $("final-points").textContent = counts.points;
    $("final-right").textContent = counts.right;
    $("final-wrong").textContent = counts.wrong;
    $("over-title").textContent = verdict(counts);
    $("over-title").focus();
    showScores(await call("highscore"));
  } catch (error) {
    trouble(error);
  }
}

function verdict({ right, wrong }) {
  if (!right) return "She fell asleep hungry";
  if (!wrong) return "A flawless servant";
  return right > 3 * wrong ? "She may keep you" : "She has seen better";
}

// ------------------------------------------------------------------- scores

async function enter(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button");
  button.disabled = true;
  trouble(null);
  try {
    const body = new URLSearchParams({ id: form.dataset.round, name: $("name").value });
    const board = await call("highscore", { method: "POST", body });
    form.hidden = true;
    showScores(board);
    say(board.place ? `You are number ${board.place}.` : "Not among the ten best.");
    if (!board.place) $("over-title").textContent = "Not among the ten best";
  } catch (error) {
    trouble(error);
  } finally {
    button.disabled = false;
  }
}

function showScores({ scores }) {
  $("no-scores").hidden = scores.length > 0;
  $("scores").replaceChildren(...scores.map(({ place, name, points, mine }) => {
    const row = document.createElement("li");
    if (mine) row.className = "mine";
    for (const [kind, text] of [["place", place], ["name", name], ["points", points]]) {
      const cell = document.createElement("span");
      cell.className = kind;
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }));
}

// --------------------------------------------------------------------- page

function look(event) {
  const at = event.currentTarget.getBoundingClientRect();
  const eyes = cat.getBoundingClientRect();
  const x = at.x + at.width / 2 - (eyes.x + eyes.width / 2);
  const y = at.y + at.height / 2 - (eyes.y + eyes.height / 2);
  const far = Math.hypot(x, y) || 1;
  $("pupils").setAttribute("transform", `translate(${(6 * x / far).toFixed(1)} ${(5 * y / far).toFixed(1)})`);
}

for (const button of treats) {
  button.addEventListener("click", () => offer(button));
  button.addEventListener("pointerenter", look);
  button.addEventListener("focus", look);
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const button = treats["123456".indexOf(event.key)];
  if (event.key.length === 1 && button) offer(button);
});
$("start").addEventListener("click", start);
$("again").addEventListener("click", start);
$("enter").addEventListener("submit", enter);

if (seconds !== null) $("seconds").textContent = seconds;

// The page and its files came from a guest, too.
const folder = new URL(".", import.meta.url).href;
countInstances(1 + performance.getEntriesByType("resource").filter((entry) => entry.name.startsWith(folder)).length);
call("highscore").then(showScores, trouble);

// Served by the Django site there are native pages beside the game; alone there are not.
fetch(new URL("../live/data", import.meta.url), { method: "HEAD" })
  .then((response) => { $("site").hidden = !response.ok; })
  .catch(() => {});
