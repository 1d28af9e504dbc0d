// Reads an AsyncAPI document from standard input; prints what is wrong with it as JSON, and ends 1 if anything is.
"use strict";

const { Parser } = require("@asyncapi/parser");

async function main() {
  let text = "";
  for await (const part of process.stdin) text += part;
  const { document, diagnostics } = await new Parser().parse(text);
  // 0 error, 1 warning, 2 information, 3 hint; that a newer AsyncAPI exists is no fault.
  const wrong = diagnostics
    .filter((found) => found.severity <= 1)
    .map((found) => ({ code: found.code, message: found.message, path: found.path.join("/") }));
  const operations = document ? document.operations().all().map((operation) => operation.id()) : [];
  process.stdout.write(JSON.stringify({ wrong, operations }));
  process.exitCode = wrong.length > 0 || !document ? 1 : 0;
}

main();
