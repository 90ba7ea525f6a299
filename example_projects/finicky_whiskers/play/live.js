// The numbers of /live: asks a native view of the site, draws a card for each component.

const EVERY = 500; // ms
const KEPT = 50; // durations that the gateway keeps for each component
const SVG = "http://www.w3.org/2000/svg";

const total = document.getElementById("total");
const meters = document.getElementById("meters");
const trouble = document.getElementById("trouble");
const cards = new Map(); // by component

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function card(row) {
  const started = make("dd"), took = make("dd"), failed = make("dd");
  const chart = draw("svg", { class: "chart", viewBox: `0 0 ${KEPT * 4} 60`, preserveAspectRatio: "none", role: "img" });
  const element = make("li", "card meter",
    make("header", "", make("h2", "", row.component), make("span", "dialect", row.dialect)),
    make("dl", "", ...[["started", started], ["median", took], ["failed", failed]].map(([name, value]) => make("div", "", make("dt", "", name), value))),
    chart);
  element.dataset.component = row.component;
  meters.append(element);
  return { element, started, took, failed, chart, count: 0 };
}

function show(row) {
  if (!cards.has(row.component)) cards.set(row.component, card(row));
  const shown = cards.get(row.component);
  shown.started.textContent = row.started.toLocaleString("en");
  shown.failed.textContent = row.failed.toLocaleString("en");
  shown.failed.classList.toggle("failed", row.failed > 0);
  shown.took.replaceChildren(row.median_us === null ? "–" : Math.round(row.median_us).toLocaleString("en"), row.median_us === null ? "" : make("small", "", " µs"));
  if (row.started === shown.count) return;
  if (shown.count) {
    shown.element.classList.remove("fresh");
    void shown.element.offsetWidth; // so that the animation starts over
    shown.element.classList.add("fresh");
  }
  shown.count = row.started;
  bars(shown.chart, row);
}

/** The newest on the right; one slow request does not flatten the others: bars end at 2.5 medians. */
function bars(chart, { component, last_us, median_us }) {
  if (!last_us.length) return;
  const top = Math.min(Math.max(...last_us), 2.5 * median_us);
  const height = (duration) => Math.max(2, (60 * Math.min(duration, top)) / top);
  const first = KEPT - last_us.length;
  chart.replaceChildren(
    ...last_us.map((duration, index) => draw("rect", {
      class: index === last_us.length - 1 ? "newest" : "",
      x: (first + index) * 4, y: 60 - height(duration), width: 3, height: height(duration), rx: 1,
    })),
    draw("line", { x1: 0, x2: KEPT * 4, y1: 60 - height(median_us), y2: 60 - height(median_us) }));
  chart.setAttribute("aria-label", `${component}: the last ${last_us.length} took ${Math.round(Math.min(...last_us))} to ${Math.round(Math.max(...last_us))} microseconds`);
}

async function poll() {
  try {
    if (!document.hidden) {
      const response = await fetch(total.dataset.from, { cache: "no-store" });
      if (!response.ok) throw new Error(`the site says ${response.status}`);
      const data = await response.json();
      total.textContent = data.total.toLocaleString("en");
      data.components.forEach(show);
      trouble.textContent = "";
    }
  } catch (error) {
    trouble.textContent = `The numbers do not come: ${error.message}.`;
  }
  setTimeout(poll, EVERY);
}

poll();
