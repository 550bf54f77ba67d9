// Runs the exported model in a worker, so that the page stays alive while it computes.
//
// Everything comes from this folder: no other server is asked, and no image leaves the browser.

const RUNTIME = new URL("./runtime/", import.meta.url).href;

let processor, model, library;

const handlers = {
  async load() {
    try {
      library = await import(`${RUNTIME}transformers.min.js`);
    } catch (error) {
      throw new Error(`Transformers.js is not in the folder runtime/ (${error.message}). README.md says how to add it.`);
    }
    const { env, AutoProcessor, PaliGemmaForConditionalGeneration } = library;
    env.allowLocalModels = true;
    env.allowRemoteModels = false;
    // An export that is written again has the same addresses.
    env.useBrowserCache = false;
    env.useWasmCache = false;
    env.backends.onnx.wasm.wasmPaths = {
      mjs: `${RUNTIME}ort-wasm-simd-threaded.mjs`,
      wasm: `${RUNTIME}ort-wasm-simd-threaded.wasm`,
    };
    processor = await AutoProcessor.from_pretrained("./");
    model = await PaliGemmaForConditionalGeneration.from_pretrained("./", {
      device: "wasm",
      progress_callback: ({ status, loaded, total }) => {
        if (status === "progress_total") postMessage({ progress: { loaded, total } });
      },
    });
  },

  async answer({ pixels, prefix }) {
    const image = new library.RawImage(pixels.data, pixels.width, pixels.height, 3);
    const inputs = await processor(image, `<image>${prefix}`);
    const tokens = await model.generate(inputs);
    const read = inputs.input_ids.dims.at(-1);
    const ids = tokens.tolist()[0].slice(read).map(Number);
    const end = ids.indexOf(Number(model.generation_config.eos_token_id));
    const spoken = end < 0 ? ids : ids.slice(0, end);
    const text = spoken.length ? processor.tokenizer.decode(spoken, { skip_special_tokens: false }) : "";
    return { text, tokens: ids, finished: end >= 0 };
  },
};

onmessage = async ({ data: { number, name, values } }) => {
  try {
    postMessage({ number, result: await handlers[name](values) });
  } catch (error) {
    postMessage({ number, error: error?.message ?? String(error) });
  }
};
