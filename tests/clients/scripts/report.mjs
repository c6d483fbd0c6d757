// What report.py does, for the scripts in JavaScript.
import { readFileSync } from "node:fs";

const MANY = 2500;

export const { URL, KEY, MODEL } = process.env;
export const TEXTS = JSON.parse(process.env.TEXTS);
export const DATA_URIS = JSON.parse(process.env.PICTURES).map(
  (name) => "data:image/png;base64," + readFileSync(name).toString("base64"),
);

const CASES = {
  wrong_key: { key: "not-the-key-of-this-gateway" },
  wrong_model: { model: "no-such-model" },
  too_many: { texts: Array(MANY).fill("a cat") },
};

// `embed` takes the texts and an object with `key` and `model`.
export async function report(name, embed, { pictures = null, cases = Object.keys(CASES) } = {}) {
  const call = (given = {}) => {
    const { texts, key, model } = { texts: TEXTS, key: KEY, model: MODEL, ...given };
    return embed(texts, { key, model });
  };
  const errors = {};
  for (const one of cases) {
    errors[one] = await call(CASES[one]).then(
      () => ["nothing", ""],
      (error) => [error.constructor.name, `${error.message} ${error.responseBody ?? ""}`],
    );
  }
  const manifest = readFileSync(`node_modules/${name}/package.json`, "utf8");
  const { version } = JSON.parse(manifest);
  console.log(JSON.stringify({ version, texts: await call(), pictures, errors }));
}
