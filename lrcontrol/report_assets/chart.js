"use strict";
// Line charts with logarithmic or linear axes, read by pointer or by arrow keys.
const Chart = (() => {
  const NS = "http://www.w3.org/2000/svg";

  function svg(parent, tag, attributes, text) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  function html(parent, tag, attributes, text) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  const flat = (lists) => [].concat(...lists);

  function power(exponent) {
    return "10" + String(exponent).replace(/./g, (sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]));
  }

  function format(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(3)));
    const [digits, exponent] = value.toExponential(1).split("e");
    return digits.replace(/\.0$/, "") + "·" + power(Number(exponent));
  }

  function logTicks(low, high, room) {
    const first = Math.ceil(low - 1e-9), last = Math.floor(high + 1e-9);
    const plain = (value) => (high <= 4 && low >= -3 ? String(Number(value.toPrecision(6))) : format(value));
    if (last - first >= 2) {
      const every = Math.ceil((last - first + 1) / room);
      const ticks = [];
      for (let e = Math.ceil(first / every) * every; e <= last; e += every) {
        ticks.push([e, high <= 3 && low >= -3 ? plain(10 ** e) : power(e)]);
      }
      return ticks;
    }
    const among = (factors) => {
      const found = [];
      for (let e = Math.floor(low); e <= last + 1; e++) {
        for (const factor of factors) {
          const at = Math.log10(factor * 10 ** e);
          if (at >= low - 1e-9 && at <= high + 1e-9) found.push([at, plain(factor * 10 ** e)]);
        }
      }
      return found;
    };
    const sets = [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3]].map(among);
    return sets.find((ticks) => ticks.length <= Math.max(3, room)) || sets[3];
  }

  function linearTicks(low, high, room) {
    const raw = (high - low) / room, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= raw);
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push([k * step, format(k * step)]);
    return ticks;
  }

  function axis(values, log, fixed) {
    const usable = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0)).map((v) => (log ? Math.log10(v) : v));
    let low = Infinity, high = -Infinity;
    for (const v of usable) { low = Math.min(low, v); high = Math.max(high, v); }
    if (low > high) { low = 0; high = 1; }
    if (fixed) [low, high] = fixed;
    else if (high - low < 1e-9) { low -= log ? 0.5 : Math.abs(low) / 2 || 0.5; high += log ? 0.5 : Math.abs(high) / 2 || 0.5; }
    return { low, high, log, to: (v) => ((log ? Math.log10(v) : v) - low) / (high - low) };
  }

  function shortened(name, room) {
    if (name.length <= room) return name;
    const head = Math.ceil((room - 1) * 0.45);
    return name.slice(0, head) + "…" + name.slice(name.length - (room - 1 - head));
  }

  function spread(labels, gap, top, bottom) {
    labels.sort((a, b) => a.y - b.y);
    for (let i = 0; i < labels.length; i++) {
      labels[i].at = Math.max(labels[i].y, i ? labels[i - 1].at + gap : top);
    }
    for (let i = labels.length - 1; i >= 0; i--) {
      labels[i].at = Math.min(labels[i].at, i < labels.length - 1 ? labels[i + 1].at - gap : bottom);
    }
  }

  function nearest(xs, x, log) {
    const key = (v) => (log ? Math.log10(Math.max(v, 1e-300)) : v);
    let best = -1, gap = Infinity;
    xs.forEach((v, i) => { const d = Math.abs(key(v) - key(x)); if (d < gap) { gap = d; best = i; } });
    return best;
  }

  // spec: title, from, x and y {title, log, fixed}, lines [{name, color, dash, baseline, dots, steps, x, y, low, high}], mark
  function draw(host, spec, bands) {
    const figure = html(host, "figure", { class: "chart" });
    const caption = html(figure, "figcaption", {}, spec.title + " ");
    if (spec.from) html(caption, "span", {}, spec.from);
    const width = Math.max(260, figure.clientWidth), height = Math.round(Math.min(344, Math.max(246, width * 0.62)));
    const direct = width >= 420 && spec.lines.length <= 10;
    const box = { left: 46, right: width - (direct ? 130 : 18), top: 26, bottom: height - 38 };
    const shown = bands && spec.lines.length <= 10;
    const ys = flat(spec.lines.map((line) => (shown ? [...line.y, ...line.low, ...line.high] : line.y)));
    const x = axis(flat(spec.lines.map((line) => line.x)), spec.x.log, spec.x.fixed), y = axis(ys, spec.y.log, spec.y.fixed);
    const px = (v) => box.left + x.to(v) * (box.right - box.left), py = (v) => box.bottom - y.to(v) * (box.bottom - box.top);
    const usable = (v) => v !== null && Number.isFinite(v) && (!y.log || v > 0);
    const root = svg(figure, "svg", { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img" });
    root.setAttribute("aria-label", `${spec.title}${spec.from ? " " + spec.from : ""}: ${spec.y.title} against ${spec.x.title}, ` +
      `${spec.lines.length} lines. Arrow keys read the values.`);
    const across = (box.right - box.left) / 62, up = (box.bottom - box.top) / 36;
    for (const [at, text] of (x.log ? logTicks : linearTicks)(x.low, x.high, across)) {
      const place = box.left + ((at - x.low) / (x.high - x.low)) * (box.right - box.left);
      svg(root, "path", { class: "grid", d: `M${place} ${box.top}V${box.bottom}` });
      svg(root, "text", { x: place, y: box.bottom + 15, "text-anchor": "middle" }, text);
    }
    for (const [at, text] of (y.log ? logTicks : linearTicks)(y.low, y.high, up)) {
      const place = box.bottom - ((at - y.low) / (y.high - y.low)) * (box.bottom - box.top);
      svg(root, "path", { class: "grid", d: `M${box.left} ${place}H${box.right}` });
      svg(root, "text", { x: box.left - 6, y: place + 4, "text-anchor": "end" }, text);
    }
    svg(root, "path", { class: "axis", d: `M${box.left} ${box.bottom}H${box.right}` });
    svg(root, "text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, spec.x.title);
    svg(root, "text", { x: 0, y: 11 }, spec.y.title);
    if (spec.mark) svg(root, "path", { class: "mark", d: `M${px(spec.mark)} ${box.top}V${box.bottom}` });
    const path = (xs, values, steps) => { // with steps a value holds until the next one
      let d = "", pen = "M";
      values.forEach((v, i) => {
        if (!usable(v)) { pen = "M"; return; }
        const across = px(xs[i]).toFixed(1), down = py(v).toFixed(1);
        if (!steps || pen === "M") d += `${pen}${across} ${down}`;
        else d += steps === "back" ? `V${down}H${across}` : `H${across}V${down}`;
        pen = "L";
      });
      return d;
    };
    if (shown) {
      for (const line of spec.lines) {
        const kept = line.x.map((_, i) => i).filter((i) => usable(line.low[i]) && usable(line.high[i]));
        if (kept.length < 2) continue;
        const there = path(kept.map((i) => line.x[i]), kept.map((i) => line.high[i]), line.steps);
        const back = path(kept.map((i) => line.x[i]).reverse(), kept.map((i) => line.low[i]).reverse(), line.steps && "back");
        svg(root, "path", { class: "band", "data-agent": line.name, d: there + back.replace("M", "L") + "Z", fill: line.color });
      }
    }
    const labels = [];
    for (const line of spec.lines) {
      const drawn = svg(root, "path", { class: line.baseline ? "line baseline" : "line", "data-agent": line.name, d: path(line.x, line.y, line.steps), stroke: line.color });
      if (line.dash) drawn.setAttribute("stroke-dasharray", line.dash);
      if (line.dots || line.x.length === 1) {
        line.x.forEach((v, i) => { if (usable(line.y[i])) svg(root, "circle", { cx: px(v), cy: py(line.y[i]), r: 2.4, fill: line.color }); });
      }
      for (let i = line.y.length - 1; i >= 0; i--) {
        if (usable(line.y[i])) { labels.push({ line, y: py(line.y[i]), x: px(line.x[i]) }); break; }
      }
    }
    if (direct) {
      spread(labels, 13, box.top + 4, box.bottom);
      for (const label of labels) {
        if (label.x < box.right - 2) {
          svg(root, "path", { d: `M${label.x + 3} ${label.y}H${box.right}`, stroke: label.line.color, "stroke-dasharray": "1 4", opacity: 0.6 });
        }
        svg(root, "path", { d: `M${box.right + 1} ${label.y}L${box.right + 8} ${label.at}`, stroke: label.line.color, fill: "none", opacity: 0.6 });
        const text = svg(root, "text", { x: box.right + 11, y: label.at + 4, style: `fill:color-mix(in srgb, ${label.line.color} 70%, var(--ink))` }, shortened(label.line.name, 17));
        svg(text, "title", {}, label.line.name);
      }
    }
    reading(figure, root, spec, { box, x, px, py, usable, width });
    return figure;
  }

  function reading(figure, root, spec, { box, x, px, py, usable, width }) {
    const cross = svg(root, "g", { visibility: "hidden" });
    const tip = html(figure, "div", { class: "tip", role: "status", hidden: "" });
    const longest = spec.lines.reduce((best, line) => (line.x.length > best.length ? line.x : best), []);
    const last = (line) => line.x[line.x.length - 1];
    let index = -1;

    function hide() { tip.hidden = true; cross.setAttribute("visibility", "hidden"); }

    function show(value, strong) {
      cross.textContent = "";
      tip.textContent = "";
      const found = spec.lines.map((line) => ({ line, i: nearest(line.x, value, x.log) }))
        .filter(({ line, i }) => i >= 0 && usable(line.y[i]) && value <= last(line) * (1 + 1e-9) + (line.x.length === 1 ? Infinity : 0));
      if (!found.length) return hide();
      found.sort((a, b) => (spec.y.falling ? -1 : 1) * (a.line.y[a.i] - b.line.y[b.i]));
      svg(cross, "path", { class: "cross", d: `M${px(value)} ${box.top}V${box.bottom}` });
      html(tip, "b", {}, `${spec.x.short || spec.x.title} ${format(value)}`);
      found.slice(0, 12).forEach(({ line, i }) => {
        svg(cross, "circle", { cx: px(line.x[i]), cy: py(line.y[i]), r: 3.5, fill: line.color });
        const row = html(tip, "div");
        swatch(row, line);
        html(row, "span", {}, line.name);
        const band = line.low[i] !== null && Number.isFinite(line.low[i]) ? ` [${format(line.low[i])}, ${format(line.high[i])}]` : "";
        html(row, strong === line.name ? "b" : "span", {}, format(line.y[i]) + band);
      });
      if (found.length > 12) html(tip, "i", {}, `and ${found.length - 12} more`);
      cross.setAttribute("visibility", "visible");
      tip.hidden = false;
      const place = px(value) * (figure.clientWidth / width), room = figure.clientWidth - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(room, place < figure.clientWidth / 2 ? place + 14 : place - tip.offsetWidth - 14))}px`;
      const beside = figure.clientWidth >= 640; // else it would cover what it tells of
      tip.style.top = `${root.getBoundingClientRect()[beside ? "top" : "bottom"] - figure.getBoundingClientRect().top + (beside ? box.top : 4)}px`;
    }

    function step(to) {
      if (!longest.length) return;
      index = Math.max(0, Math.min(longest.length - 1, to));
      show(longest[index]);
    }

    root.addEventListener("pointermove", (event) => {
      const at = root.getBoundingClientRect(), scale = width / at.width;
      const share = ((event.clientX - at.left) * scale - box.left) / (box.right - box.left);
      if (share < -0.03 || share > 1.03) return hide();
      const raw = x.low + share * (x.high - x.low), near = nearest(longest, x.log ? 10 ** raw : raw, x.log);
      if (near >= 0) step(near);
    });
    root.addEventListener("pointerleave", hide);
    root.addEventListener("focus", () => { if (root.matches(":focus-visible")) step(index < 0 ? longest.length - 1 : index); });
    root.addEventListener("blur", hide);
    root.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: longest.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      step(to);
    });
  }

  function swatch(parent, line) {
    const root = svg(parent, "svg", { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" });
    const drawn = svg(root, "path", { d: "M0 5H22", stroke: line.color, "stroke-width": line.baseline ? 3.5 : 2.5 });
    if (line.dash) drawn.setAttribute("stroke-dasharray", line.dash);
  }

  return { draw, html, swatch, format, flat };
})();
