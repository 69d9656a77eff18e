/* The size of a convolution's output, and what one of its pixels is made of: chapters/alexnet.md
   and chapters/resnet.md. */

(() => {
  const [inputs, outputs] = [8, 16]; // channels
  const parts = [1, 2, 4, 8];
  const size = live.slider("input size", { min: 3, max: 12, value: 7 }, draw);
  const kernel = live.slider("kernel", { min: 1, max: 5, value: 3 }, draw);
  const stride = live.slider("stride", { min: 1, max: 4, value: 2 }, draw);
  const padding = live.slider("padding", { min: 0, max: 3, value: 1 }, draw);
  const dilation = live.slider("dilation", { min: 1, max: 3, value: 1 }, draw);
  const groups = live.choice("groups", parts, draw);
  const shown = live.slider("output pixel", { min: 1, max: 16, value: 6 }, draw);

  const picture = live.svg("svg", { role: "img" });
  const told = live.html("p");

  function draw() {
    const [h, k, s, p, d, g] = [size, kernel, stride, padding, dilation, groups].map((c) =>
      Number(c.value),
    );
    const reach = d * (k - 1) + 1; // from the first to the last pixel that the kernel touches
    const out = Math.floor((h + 2 * p - reach) / s) + 1;
    const weights = (k * k * inputs * outputs) / g;
    picture.replaceChildren();
    shown.disabled = out < 1;
    if (out < 1) {
      picture.setAttribute("viewBox", "0 0 326 20");
      told.textContent =
        `The kernel reaches over ${reach} pixels and the padded input has only ${h + 2 * p}: ` +
        "there is no output.";
      return;
    }
    shown.max = out * out;
    const at = shown.value - 1;
    const [row, column] = [Math.floor(at / out), at % out];
    const unit = Math.min(16, 290 / (h + 2 * p + out + 2));
    const height = Math.max(h + 2 * p, out) * unit + 18;
    picture.setAttribute("viewBox", `-1 0 327 ${height}`);

    const right = (h + 2 * p + 2) * unit;
    picture.append(live.svg("text", { x: 0, y: 11 }, p ? "input, padded" : "input"));
    picture.append(live.svg("text", { x: right, y: 11 }, "output"));
    const square = (x, y, kind) =>
      picture.appendChild(
        live.svg("rect", { x, y: y + 17, width: unit - 1, height: unit - 1, class: kind }),
      );
    for (let i = 0; i < h + 2 * p; i++)
      for (let j = 0; j < h + 2 * p; j++) {
        const [a, b] = [i - row * s, j - column * s];
        const touched = [a, b].every((v) => v >= 0 && v < reach && v % d === 0);
        const inside = [i, j].every((v) => v >= p && v < h + p);
        const kind = touched ? "live-seen" : inside ? "live-rest" : "live-padding";
        square(j * unit, i * unit, inside || !touched ? kind : "live-seen live-padding");
      }
    for (let i = 0; i < out; i++)
      for (let j = 0; j < out; j++) {
        const here = i === row && j === column;
        const made = square(right + j * unit, i * unit, here ? "live-here" : "live-rest");
        made.addEventListener("click", () => {
          shown.value = i * out + j + 1;
          draw();
        });
      }
    told.textContent =
      `⌊(${h} + 2·${p} − ${d}·(${k} − 1) − 1) / ${s}⌋ + 1 = ${out}: the output has ` +
      `${out} × ${out} pixels. From ${inputs} channels to ${outputs}, in ${g} ` +
      `group${g === 1 ? "" : "s"}: ${weights.toLocaleString("en")} weights, ` +
      `${(weights * out * out).toLocaleString("en")} MACs.`;
    picture.setAttribute("aria-label", `Input and output of a convolution. ${told.textContent}`);
  }

  draw();
  const controls = [size, kernel, stride, padding, dilation, groups, shown].map((c) => c.element);
  live.show("convolution", controls, picture, told);
})();
