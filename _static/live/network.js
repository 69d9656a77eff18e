/* A trained network that classifies pictures in the reader's browser: live.md.

   Nothing but this script is fetched before the button is pressed. What it fetches then lies in
   network/: the weights and test images that utils/live_network.py wrote, and onnxruntime-web,
   which computes. Pictures go nowhere: they are drawn on a canvas and read from there. */

(() => {
  const folder = new URL("network/", document.currentScript.src);
  const place = document.getElementById("live-network");
  const side = 32; // pixels of what the network sees
  let about, session;

  const told = live.html("p");
  const start = live.button("Load the network (3.8 MB) and try it", load);

  async function fetched(name) {
    const reply = await fetch(new URL(name, folder));
    if (!reply.ok) throw new Error(`the site answered ${reply.status} for ${name}`);
    return new Uint8Array(await reply.arrayBuffer());
  }

  /* Most hosts send .gz as it is; what one has unpacked already does not begin with 1f 8b. */
  async function unpacked(bytes) {
    if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function script(name) {
    return new Promise((done, failed) => {
      const made = live.html("script", { src: new URL(name, folder), onload: done });
      made.onerror = () => failed(new Error(`${name} cannot be fetched`));
      document.head.append(made);
    });
  }

  async function load() {
    start.disabled = true;
    told.textContent = "Loading …";
    try {
      const [text, weights, wasm, images] = await Promise.all([
        fetched("resnet20.json"),
        fetched("resnet20.onnx"),
        fetched("ort-wasm.wasm.gz").then(unpacked),
        fetched("images.png").then((bytes) => createImageBitmap(new Blob([bytes]))),
        script("ort.wasm-core.min.js"),
      ]);
      about = JSON.parse(new TextDecoder().decode(text));
      // One thread and no special instructions: that needs nothing of the host or the browser.
      const file = URL.createObjectURL(new Blob([wasm], { type: "application/wasm" }));
      Object.assign(ort.env.wasm, { numThreads: 1, simd: false });
      ort.env.wasm.wasmPaths = { "ort-wasm.wasm": file };
      session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
      show(images);
    } catch (error) {
      start.disabled = false;
      told.textContent =
        location.protocol === "file:"
          ? "A page opened as a file may not load anything: `make serve` shows it as a website."
          : `That did not work: ${error.message}.`;
    }
  }

  /* What the network sees, and its ten answers; drawn by `classify`. */
  const seen = live.html("canvas", { width: side, height: side, className: "live-pixels" });
  seen.setAttribute("role", "img");
  const pixels = seen.getContext("2d", { willReadFrequently: true });
  const bars = live.html("ul", { className: "live-bars" });
  let rows, thumbs;

  function show(images) {
    rows = about.classes.map((name) => {
      const [bar, share] = [live.html("span"), live.html("span")];
      const row = live.html("li", {}, live.html("span", {}, name), bar, share);
      bars.append(row);
      return { row, bar, share };
    });
    thumbs = about.labels.map((label, i) => {
      const small = live.html("canvas", { width: side, height: side, className: "live-pixels" });
      small.getContext("2d").drawImage(images, -i * side, 0);
      const button = live.button("", () => {
        pixels.drawImage(small, 0, 0);
        classify(`a test image of the class ${about.classes[label]}`, button, about.classes[label]);
      });
      button.append(small);
      const nth = about.labels.slice(0, i).filter((other) => other === label).length;
      button.setAttribute("aria-label", `test image: ${about.classes[label]} ${nth + 1}`);
      return button;
    });
    const input = live.html("input", { type: "file", accept: "image/*" });
    input.addEventListener("change", () => input.files[0] && own(input.files[0]));
    place.addEventListener("dragover", (event) => event.preventDefault());
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) own(event.dataTransfer.files[0]);
    });
    const choice = live.html("div", { className: "live-thumbs" }, ...thumbs);
    choice.setAttribute("role", "group");
    choice.setAttribute("aria-label", "Test images");
    const name = "your own picture: choose it, or drop it here";
    const mine = live.html("label", {}, live.html("span", {}, name), input);
    const answer = live.html("div", { className: "live-answer" }, seen, bars);
    const noise = live.button("random pixels", () => {
      const image = pixels.createImageData(side, side);
      for (let i = 0; i < image.data.length; i++)
        image.data[i] = i % 4 === 3 ? 255 : 256 * Math.random();
      pixels.putImageData(image, 0, 0);
      classify("random colours");
    });
    place.querySelector(".live-controls").remove();
    live.show("network", [choice, mine, noise], answer, told);
    thumbs[0].focus({ preventScroll: true });
    thumbs[0].click();
  }

  async function own(file) {
    try {
      const image = await createImageBitmap(file);
      pixels.drawImage(reduced(image), 0, 0);
      await classify("your own picture");
    } catch {
      told.textContent = `${file.name} is no picture that this browser can read.`;
    }
  }

  /* The square in the middle, halved again and again, so that every pixel counts; drawn small in
     one step, most pixels of a large picture would be skipped. */
  function reduced(image) {
    const cut = Math.min(image.width, image.height);
    let now = side;
    while (2 * now <= Math.min(cut, 2048)) now *= 2;
    const corner = [(image.width - cut) / 2, (image.height - cut) / 2];
    let canvas = drawn(image, now, ...corner, cut, cut);
    for (; now > side; now /= 2) canvas = drawn(canvas, now / 2, 0, 0, now, now);
    return canvas;
  }

  function drawn(image, size, ...from) {
    const canvas = live.html("canvas", { width: size, height: size });
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // where the picture is transparent
    context.fillRect(0, 0, size, size);
    context.drawImage(image, ...from, 0, 0, size, size);
    return canvas;
  }

  /* Shows what the network says about the pixels drawn. Of a test image, the button that was
     pressed and the true class are known. */
  async function classify(what, pressed, truth) {
    const { data } = pixels.getImageData(0, 0, side, side); // red, green, blue, alpha, red, …
    const n = side * side;
    const x = new Float32Array(3 * n);
    for (let c = 0; c < 3; c++)
      for (let i = 0; i < n; i++)
        x[c * n + i] = (data[4 * i + c] / 255 - about.mean[c]) / about.std[c];
    const began = performance.now();
    const { logits } = await session.run({
      images: new ort.Tensor("float32", x, [1, 3, side, side]),
    });
    const took = Math.max(1, Math.round(performance.now() - began));

    const most = Math.max(...logits.data);
    const powers = Array.from(logits.data, (value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b);
    const shares = powers.map((power) => `${((100 * power) / sum).toFixed(1)} %`);
    const best = powers.indexOf(1);
    rows.forEach(({ row, bar, share }, i) => {
      bar.style.setProperty("--share", powers[i] / sum);
      share.textContent = shares[i];
      row.classList.toggle("live-best", i === best);
    });
    for (const button of thumbs) button.setAttribute("aria-pressed", button === pressed);
    const answer = about.classes[best];
    seen.setAttribute("aria-label", `What the network sees, 32 × 32 pixels of ${what}`);
    const judged = truth
      ? `The label says ${truth}, so that is ${answer === truth ? "right" : "wrong"}.`
      : "These ten are all it knows, and it always chooses one.";
    told.textContent = `The network says ${answer}, ${shares[best]}. ${judged} It took ${took} ms.`;
  }

  told.setAttribute("role", "status");
  place.prepend(live.html("div", { className: "live-controls" }, start), told);
})();
