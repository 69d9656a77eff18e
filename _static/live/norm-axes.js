/* Which values share a mean, by normalisation: chapters/layernorm.md. */

(() => {
  const [images, channels, side] = [3, 6, 3];
  // Whether the values at a and b share a mean; each is {n, c, p}, p the pixel's number.
  const together = {
    batch: (a, b) => a.c === b.c,
    layer: (a, b) => a.n === b.n,
    group: (a, b) => a.n === b.n && group(a.c) === group(b.c),
    instance: (a, b) => a.n === b.n && a.c === b.c,
    "channels-last": (a, b) => a.n === b.n && a.p === b.p,
  };
  const group = (c) => Math.floor((c * groups.value) / channels);

  const kind = live.choice("normalisation", Object.keys(together), draw);
  const groups = live.choice("groups", [2, 1, 3, 6], draw);
  const image = live.slider("image", { min: 1, max: images, value: 2 }, draw);
  const channel = live.slider("channel", { min: 1, max: channels, value: 3 }, draw);
  const pixel = live.slider("pixel", { min: 1, max: side * side, value: 5 }, draw);

  const [cell, step] = [10, 36];
  const picture = live.svg("svg", {
    viewBox: `-46 -20 ${46 + channels * step} ${20 + images * step}`,
    role: "img",
    "aria-label": "Three images of six channels with nine pixels each",
  });
  picture.append(live.svg("text", { x: 0, y: -7 }, "channels →"));
  const squares = [];
  for (let n = 0; n < images; n++) {
    picture.append(live.svg("text", { x: -46, y: n * step + 19 }, `image ${n + 1}`));
    for (let c = 0; c < channels; c++)
      for (let p = 0; p < side * side; p++) {
        const x = c * step + (p % side) * cell;
        const y = n * step + Math.floor(p / side) * cell;
        const square = live.svg("rect", { x, y, width: cell - 1, height: cell - 1 });
        square.addEventListener("click", () => {
          [image.value, channel.value, pixel.value] = [n + 1, c + 1, p + 1];
          draw();
        });
        picture.append(square);
        squares.push({ n, c, p, square });
      }
  }
  const told = live.html("p");

  function draw() {
    const at = { n: image.value - 1, c: channel.value - 1, p: pixel.value - 1 };
    groups.disabled = kind.value !== "group";
    let shared = 0;
    for (const value of squares) {
      const seen = together[kind.value](at, value);
      const here = value.n === at.n && value.c === at.c && value.p === at.p;
      shared += seen;
      value.square.setAttribute("class", here ? "live-here" : seen ? "live-seen" : "live-rest");
    }
    const means = squares.length / shared;
    const what = kind.value === "group" ? `group, with ${groups.value} of them` : kind.value;
    told.textContent =
      `${what}: ${shared} values share one mean, so there are ${means} means ` +
      `for the ${squares.length} values.`;
  }

  draw();
  const controls = [kind, groups, image, channel, pixel].map((c) => c.element);
  live.show("norm-axes", controls, picture, told);
})();
