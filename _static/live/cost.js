/* Accuracy against cost, for the networks of a table on the same page: chapters/conclusion.md.

   The table is found by its header cells, which are those below. Without it nothing is shown. */

(() => {
  const [name, accuracy, spread] = ["network", "test accuracy (%)", "±"];
  // By header cell: how a value of that column is told.
  const costs = {
    "MACs (M)": (value) => `${value} million MACs`,
    parameters: (value) => `${value} parameters`,
    "training (s)": (value) => `${value} s of training`,
    "batch 1 (ms)": (value) => `${value} ms for one image`,
    "batch 128 (ms)": (value) => `${value} ms for 128 images`,
    "memory (MiB)": (value) => `${value} MiB of memory`,
  };
  const headers = [name, accuracy, spread, ...Object.keys(costs)].sort().join("|");

  const text = (cell) => cell.textContent.replace(/\s+/g, " ").trim();
  const number = (value) => (value ? Number(value.replace(/,/g, "")) : NaN);
  const titles = (table) => (table.rows[0] ? [...table.rows[0].cells].map(text) : []);
  const table = [...document.querySelectorAll("table")].find(
    (found) => [...titles(found)].sort().join("|") === headers,
  );
  if (!table) return;
  const columns = titles(table);
  const networks = [...table.rows]
    .slice(1)
    .map((row) => Object.fromEntries([...row.cells].map((cell, i) => [columns[i], text(cell)])))
    .filter((network) => Number.isFinite(number(network[accuracy])));

  const [width, height, left, right, top, bottom] = [326, 230, 30, 10, 18, 34];
  const picture = live.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
  const told = live.html("p");
  const choice = live.choice("cost", Object.keys(costs), draw);
  let points, choose; // as drawn last
  let chosen; // a network, which stays chosen when the axis changes

  /* Round numbers from `low` to `high`: about five, or 1, 2, 5, 10, … if logarithmic. */
  function ticks(low, high, logarithmic) {
    const found = [];
    if (logarithmic) {
      const digits = high / low < 300 ? [1, 2, 5] : [1];
      for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
        for (const digit of digits)
          if (digit * power >= low && digit * power <= high) found.push(digit * power);
      return found;
    }
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
    return found;
  }

  /* A place from 0 to 1 for values between the lowest and the highest, with a little air. */
  function scale(values, logarithmic) {
    const map = logarithmic ? Math.log : (value) => value;
    const [low, high] = [Math.min(...values), Math.max(...values)].map(map);
    const air = 0.06 * (high - low || Math.abs(high) || 1);
    const back = logarithmic ? Math.exp : (value) => value;
    const ends = [back(low - air), back(high + air)];
    return {
      ends,
      at: (value) => (map(value) - low + air) / (high - low + 2 * air),
    };
  }

  const shown = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });

  function draw() {
    const cost = choice.value;
    points = networks
      .map((network) => ({
        network,
        x: number(network[cost]),
        y: number(network[accuracy]),
        error: number(network[spread]) || 0,
      }))
      .filter(({ x }) => x > 0)
      .sort((a, b) => a.x - b.x || b.y - a.y);
    picture.replaceChildren();
    if (!points.length) {
      told.textContent = `The table does not say: ${cost}.`;
      return;
    }
    const all = points.map(({ x }) => x);
    const logarithmic = Math.max(...all) >= 10 * Math.min(...all);
    const across = scale(all, logarithmic);
    const up = scale(points.flatMap(({ y, error }) => [y - error, y + error]), false);
    const px = (x) => left + across.at(x) * (width - left - right);
    const py = (y) => height - bottom - up.at(y) * (height - top - bottom);

    const line = (x1, y1, x2, y2) => live.svg("line", { x1, y1, x2, y2 });
    const label = (x, y, anchor, what) => live.svg("text", { x, y, "text-anchor": anchor }, what);
    for (const y of ticks(...up.ends, false))
      picture.append(
        live.svg("path", { d: `M${left} ${py(y)}H${width - right}`, class: "live-grid" }),
        label(left - 4, py(y) + 3.5, "end", shown(y)),
      );
    for (const x of ticks(...across.ends, logarithmic))
      picture.append(
        line(px(x), height - bottom, px(x), height - bottom + 4),
        label(px(x), height - bottom + 14, "middle", shown(x)),
      );
    picture.append(label(0, 9, "start", accuracy));
    picture.append(
      label(width - right, height - 5, "end", cost + (logarithmic ? ", logarithmic" : "")),
    );

    let best = -Infinity; // of the cheaper ones
    for (const point of points) {
      const { network, x, y, error } = point;
      Object.assign(point, { front: y > best, left: px(x), top: py(y) });
      best = Math.max(best, y);
      const plusMinus = Number.isFinite(number(network[spread])) ? ` ± ${network[spread]}` : "";
      point.says =
        `${network[name]}: ${network[accuracy]}${plusMinus} %, ${costs[cost](network[cost])}`;
      point.mark = live.svg("g", { tabindex: 0, role: "img", "aria-label": point.says });
      if (error)
        point.mark.append(
          line(px(x), py(y - error), px(x), py(y + error)),
          line(px(x) - 2.5, py(y - error), px(x) + 2.5, py(y - error)),
          line(px(x) - 2.5, py(y + error), px(x) + 2.5, py(y + error)),
        );
      point.mark.append(live.svg("circle", { cx: px(x), cy: py(y), r: 4 }));
      point.mark.addEventListener("focus", () => choose(point));
      picture.append(point.mark);
    }
    picture.setAttribute("aria-label", `${accuracy} of ${points.length} networks against ${cost}`);

    const named = live.svg("g", { class: "live-chosen", "aria-hidden": "true" });
    picture.append(named);
    choose = (point) => {
      chosen = point?.network;
      for (const { mark, front, network } of points)
        mark.setAttribute(
          "class",
          (front ? "live-front" : "live-other") + (network === chosen ? " live-chosen" : ""),
        );
      named.replaceChildren();
      if (!point) {
        told.textContent =
          "Point at a network, tap it, or go from one to the next with the Tab key. Blue: no " +
          "other costs as little and is as accurate.";
        return;
      }
      named.append(label(...beside(point), point.network[name]));
      const better = points.find((other) => other.front && other.y >= point.y);
      told.textContent =
        `${point.says}. ` +
        (point.front
          ? "No other costs as little and is as accurate."
          : `${better.network[name]} costs no more and is at least as accurate.`);
    };
    choose(points.find(({ network }) => network === chosen));
  }

  /* Where its name covers the fewest other points: x, y and text-anchor. */
  function beside(point) {
    const long = 6.2 * point.network[name].length; // about, in bold
    const free = [1, -1].flatMap((side) =>
      [-7, 14].map((down) => {
        const [x, y] = [point.left + 8 * side, point.top + down];
        const [from, to] = side > 0 ? [x, x + long] : [x - long, x];
        const covered = points.filter(
          (other) =>
            other.left > from - 4 && other.left < to + 4 && other.top > y - 13 && other.top < y + 6,
        ).length;
        const outside = from < 0 || to > width || y > height - bottom;
        return { place: [x, y, side > 0 ? "start" : "end"], bad: covered + (outside ? 99 : 0) };
      }),
    );
    return free.reduce((one, other) => (other.bad < one.bad ? other : one)).place;
  }

  /* The network next to a pointer or finger, if there is one near enough to be meant. */
  function meant(event) {
    if (!points.length) return;
    const { a, d, e, f } = picture.getScreenCTM();
    const [x, y] = [(event.clientX - e) / a, (event.clientY - f) / d];
    const away = (point) => Math.hypot(point.left - x, point.top - y);
    const nearest = points.reduce((one, other) => (away(other) < away(one) ? other : one));
    if (away(nearest) < 16 && nearest.network !== chosen) choose(nearest);
  }

  picture.addEventListener("pointermove", meant);
  picture.addEventListener("pointerdown", meant);
  draw();
  live.show("cost", [choice.element], picture, told);
})();
