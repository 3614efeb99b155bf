// The page: what is chosen, and the charts and table rows that follow from it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { html, flat } = Chart;
  const by = (id) => document.getElementById(id);
  const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 5"];
  const chosen = { task: "", optimizer: "", start: 0, on: new Set(), listed: new Set() };

  const styles = [];
  let hue = 0;
  data.agents.forEach((name, index) => {
    const baseline = index === data.baseline;
    const color = baseline ? "var(--base)" : `var(--c${hue % 7})`, dash = baseline ? "" : DASHES[Math.floor(hue / 7) % DASHES.length];
    styles.push({ name, color, dash, baseline });
    if (!baseline) hue += 1;
  });
  const isFirst = (index) => data.agents.length <= data.shown + 1 || index < data.shown || index === data.baseline;

  const unpacked = new Map();
  function series(number) {
    if (!unpacked.has(number)) {
      const bytes = atob(data.pool[number]), [low, high] = data.range, values = [];
      for (let i = 0; i < bytes.length; i += 2) {
        const level = bytes.charCodeAt(i) + 256 * bytes.charCodeAt(i + 1);
        values.push(level === 65535 ? null : 10 ** (low + (level / 65534) * (high - low)));
      }
      unpacked.set(number, values);
    }
    return unpacked.get(number);
  }

  const pairs = () => data.pairs.filter((pair) =>
    (!chosen.task || pair.task === chosen.task) && (!chosen.optimizer || pair.optimizer === chosen.optimizer));
  const shownOf = (agents) => Object.keys(agents).map(Number).filter((index) => chosen.on.has(index)).sort((a, b) => a - b);
  const nameOf = (pair) => `${pair.task}, ${pair.optimizer}`;

  function panels(id, specs) {
    const host = by(id);
    host.textContent = "";
    const drawn = specs.filter((spec) => spec.lines.length);
    if (!drawn.length) { html(host, "p", { class: "empty" }, "Nothing is chosen: tick an agent."); return; }
    // room for every panel is made first, so that all of them find the width they will have
    const places = drawn.map(() => html(host, "div", { class: "panel" }));
    drawn.forEach((spec, index) => Chart.draw(places[index], spec, by("bands").checked));
    keys(host.parentElement);
  }

  function keys(section) {
    const old = section.querySelector(".keys");
    if (old) old.remove();
    const host = html(section, "div", { class: "keys", role: "group", "aria-label": "Agents shown" });
    [...chosen.listed].sort((a, b) => a - b).forEach((index) => {
      const button = html(host, "button", { type: "button", "aria-pressed": chosen.on.has(index), "data-key": index });
      Chart.swatch(button, styles[index]);
      html(button, "span", {}, data.agents[index]);
      button.addEventListener("click", () => {
        toggle(index, !chosen.on.has(index));
        const again = section.querySelector(`[data-key="${index}"]`);
        if (again) again.focus();
      });
      const strong = (on) => section.querySelectorAll("figure.chart").forEach((figure) => {
        figure.classList.toggle("dimmed", on && chosen.on.has(index));
        figure.querySelectorAll("[data-agent]").forEach((node) =>
          node.classList.toggle("strong", node.getAttribute("data-agent") === data.agents[index]));
      });
      button.addEventListener("pointerenter", () => strong(true));
      button.addEventListener("pointerleave", () => strong(false));
    });
  }

  function drawFinal() {
    panels("final", pairs().map((pair) => ({
      title: nameOf(pair),
      x: { title: "initial learning rate", short: "lr0", log: true },
      y: { title: "final training loss", log: true },
      lines: shownOf(pair.agents).map((index) => {
        const { lr0, low, middle, high } = pair.agents[index].final;
        return Object.assign({ x: lr0, y: middle, low, high, dots: true }, styles[index]);
      }),
    })));
  }

  function profileOf(index, visible) {
    const own = visible.map((pair) => pair.agents[index]).filter(Boolean).map((agent) => agent.profile);
    if (visible.length === data.pairs.length) return data.profiles[index];
    if (own.length === 1) return own[0];
    const nothing = data.taus.map(() => null); // a band over some of the tasks is not that of their bands
    return { share: data.taus.map((_, i) => own.reduce((sum, one) => sum + one.share[i], 0) / own.length), low: nothing, high: nothing };
  }

  function drawProfile() {
    const visible = pairs();
    const there = data.agents.map((_, index) => index).filter((index) => chosen.on.has(index) && visible.some((pair) => pair.agents[index]));
    panels("profile", [{
      title: visible.length === 1 ? nameOf(visible[0]) : `${visible.length} pairs of task and optimizer, each counted alike`,
      x: { title: "factor τ of the best loss", short: "τ", log: true },
      y: { title: "share within it", log: false, fixed: [0, 1], falling: true },
      lines: there.map((index) => {
        const { share, low, high } = profileOf(index, visible);
        return Object.assign({ x: data.taus, y: share, low, high, steps: true }, styles[index]);
      }),
    }]);
  }

  function nearestStart(rates) {
    const distances = rates.map((rate) => Math.abs(Math.log(rate / chosen.start)));
    return distances.indexOf(Math.min(...distances));
  }

  function traced(pair, quantity, compute) {
    const lines = shownOf(pair.agents).filter((index) => pair.agents[index].trace).map((index) => {
      const { trace, passes } = pair.agents[index], at = nearestStart(trace.lr0);
      const [low, y, high] = trace[quantity][at].map(series);
      const x = data.bins[trace.steps].map((step) => (compute ? (step * passes) / trace.steps : step));
      return Object.assign({ x, y, low, high, from: trace.lr0[at] }, styles[index]);
    });
    const starts = [...new Set(lines.map((line) => line.from))].map(Chart.format);
    const from = starts.length ? `from lr0 = ${starts.join(", ")}${starts.length > 1 ? ", each its nearest" : ""}` : "";
    return {
      title: nameOf(pair),
      from,
      x: compute ? { title: "passes", log: false, short: "passes" } : { title: "training step", short: "step", log: false },
      y: { title: quantity === "loss" ? "minibatch loss" : "learning rate", log: true },
      mark: compute ? pair.budget : undefined,
      lines,
    };
  }

  function drawTraces() {
    panels("traces", flat(pairs().map((pair) => [traced(pair, "loss", false), traced(pair, "lr", false)])));
    panels("compute", pairs().map((pair) => traced(pair, "loss", true)));
  }

  function filterRows() {
    const names = new Set([...chosen.on].map((index) => data.agents[index])), known = new Set(data.agents);
    document.querySelectorAll("tr[data-agent]").forEach((row) => {
      const { task, optimizer, agent } = row.dataset;
      const outside = task !== undefined && ((chosen.task && task !== chosen.task) || (chosen.optimizer && optimizer !== chosen.optimizer));
      row.hidden = Boolean(outside || (by("only").checked && known.has(agent) && !names.has(agent)));
    });
  }

  function filterGroups() {
    document.querySelectorAll("tbody[data-task]").forEach((body) => {
      body.hidden = [...body.rows].every((row) => row.hidden || row.dataset.agent === undefined);
    });
  }

  const hasTraces = data.pairs.some((pair) => Object.values(pair.agents).some((agent) => agent.trace));
  function draw() {
    filterRows();
    filterGroups();
    drawFinal();
    drawProfile();
    if (hasTraces) drawTraces();
  }

  function toggle(index, on) {
    if (on) { chosen.on.add(index); chosen.listed.add(index); } else chosen.on.delete(index);
    by("list").children[index].querySelector("input").checked = on;
    draw();
  }

  function choose(test) {
    data.agents.forEach((_, index) => {
      const on = test(index);
      if (on) { chosen.on.add(index); chosen.listed.add(index); } else chosen.on.delete(index);
      by("list").children[index].querySelector("input").checked = on;
    });
  }

  function options(id, values, all, write) {
    const select = by(id);
    if (all) html(select, "option", { value: "" }, all);
    values.forEach((value) => html(select, "option", { value }, String(write ? write(value) : value)));
    select.addEventListener("change", () => { chosen[id] = id === "start" ? Number(select.value) : select.value; draw(); });
  }

  function sortable(head) {
    const text = head.textContent;
    head.textContent = "";
    const button = html(head, "button", { type: "button" }, text);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending", table = head.closest("table");
      const column = [...head.parentElement.children].indexOf(head);
      const key = (row) => row.children[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stays below
        const numbers = [x, y].map((value) => Number(value.replace("inf", "Infinity")));
        const order = numbers.some(Number.isNaN) ? x.localeCompare(y) : numbers[0] === numbers[1] ? 0 : numbers[0] - numbers[1];
        return rising ? order : -order;
      };
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      for (const body of table.tBodies) {
        [...body.rows].filter((row) => row.dataset.agent !== undefined).sort(compare).forEach((row) => body.append(row));
      }
    });
  }

  options("task", [...new Set(data.pairs.map((pair) => pair.task))], "all tasks");
  options("optimizer", [...new Set(data.pairs.map((pair) => pair.optimizer))], "all optimizers");
  const starts = [...new Set(flat(data.pairs.map((pair) => flat(Object.values(pair.agents).map((agent) => (agent.trace ? agent.trace.lr0 : []))))))];
  starts.sort((a, b) => a - b);
  options("start", starts, "", Chart.format);
  chosen.start = starts[Math.floor((starts.length - 1) / 2)];
  by("start").value = String(chosen.start);
  styles.forEach((style, index) => {
    const label = html(by("list"), "label", { class: "check", title: style.name });
    const box = html(label, "input", { type: "checkbox" });
    Chart.swatch(label, style);
    html(label, "code", {}, style.name);
    box.addEventListener("change", () => toggle(index, box.checked));
  });
  choose(isFirst);
  by("first").textContent = data.agents.every((_, index) => isFirst(index)) ? "Reset" : `First ${data.shown}`;
  for (const [id, test] of [["first", isFirst], ["all", () => true], ["none", () => false]]) {
    by(id).addEventListener("click", () => { choose(test); draw(); });
  }
  by("only").checked = data.agents.every((_, index) => isFirst(index));
  for (const id of ["bands", "only"]) by(id).addEventListener("change", draw);
  document.querySelectorAll("th[data-sort]").forEach(sortable);
  by("filters").hidden = false;
  document.querySelector(".layout").classList.add("scripted");
  document.querySelectorAll("section.charts").forEach((section) => { section.hidden = section.classList.contains("traced") && !hasTraces; });
  draw();
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } });
})();
