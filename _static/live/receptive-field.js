/* What one value of a stack of layers can see, along one axis: chapters/vgg.md. */

(() => {
  const widest = 64; // pixels that still can be told apart on a phone
  const start = [
    { kernel: 3, stride: 1 },
    { kernel: 3, stride: 1 },
  ];
  let layers = [...start];

  const picture = live.svg("svg", { role: "img" });
  const told = live.html("p");
  const add = (name, kernel, stride) =>
    live.button(name, () => {
      layers.push({ kernel, stride });
      draw();
    });
  const controls = [
    add("+ 3×3", 3, 1),
    add("+ 5×5", 5, 1),
    add("+ 7×7", 7, 1),
    add("+ 3×3, stride 2", 3, 2),
    add("+ pooling 2×2, stride 2", 2, 2),
    live.button("take the last away", () => {
      layers.pop();
      draw();
    }),
    live.button("start again", () => {
      layers = [...start];
      draw();
    }),
  ];

  /* For each layer from the image up: size and jump of its field, and how many of its values
     the one at the top looks at. */
  function follow() {
    const rows = [{ field: 1, jump: 1 }];
    for (const { kernel, stride } of layers) {
      const { field, jump } = rows.at(-1);
      rows.push({ field: field + (kernel - 1) * jump, jump: stride * jump });
    }
    let count = 1;
    for (let i = layers.length; i >= 0; i--) {
      rows[i].count = count;
      if (i) count = layers[i - 1].stride * (count - 1) + layers[i - 1].kernel;
    }
    return rows;
  }

  function draw() {
    let rows = follow();
    let refused = "";
    if (rows[0].count > widest) {
      refused = `No room: with that layer it would see ${rows[0].count} pixels. `;
      layers.pop();
      rows = follow();
    }
    const pixels = rows[0].count;
    const [left, unit, gap] = [86, 234 / Math.max(pixels, 5), 42];
    const radius = Math.min(7, 0.4 * unit);
    const height = gap * layers.length + 24;
    picture.setAttribute("viewBox", `0 0 326 ${height}`);
    picture.replaceChildren();
    const x = (row, i) =>
      left + unit * ((row.field - 1) / 2 + i * row.jump + 0.5 + (Math.max(pixels, 5) - pixels) / 2);
    const y = (i) => 12 + gap * (layers.length - i);
    layers.forEach(({ kernel, stride }, i) => {
      for (let v = 0; v < rows[i + 1].count; v++)
        for (let k = 0; k < kernel; k++)
          picture.append(
            live.svg("line", {
              x1: x(rows[i + 1], v),
              y1: y(i + 1),
              x2: x(rows[i], v * stride + k),
              y2: y(i),
            }),
          );
    });
    rows.forEach((row, i) => {
      const layer = layers[i - 1];
      const name = layer ? `${layer.kernel}×${layer.kernel}` : "image";
      const stride = layer && layer.stride > 1 ? `, stride ${layer.stride}` : "";
      picture.append(live.svg("text", { x: 0, y: y(i) + 4 }, name + stride));
      for (let v = 0; v < row.count; v++) {
        const seen = i === layers.length ? "live-here" : "live-seen";
        picture.append(
          live.svg("circle", { cx: x(row, v), cy: y(i), r: radius, class: seen }),
        );
      }
    });
    const { field, jump } = rows.at(-1);
    const depth = `${layers.length} layer${layers.length === 1 ? "" : "s"}`;
    told.textContent =
      `${refused}After ${depth}, a value sees ${field} × ${field} pixels; ` +
      `its neighbour looks ${jump} pixel${jump === 1 ? "" : "s"} further.`;
    picture.setAttribute("aria-label", `One axis: ${told.textContent}`);
  }

  draw();
  live.show("receptive-field", controls, picture, told);
})();
