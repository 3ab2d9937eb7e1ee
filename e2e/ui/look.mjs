// Opens a link of the Perfetto UI in headless Chromium, waits until its trace is loaded, asks its trace processor, and saves
// a picture.
//
//     echo '{"link": "http://…", "queries": {"name": "select …"}, …}' | node look.mjs
//
// Prints {"title", "results": {"name": [row, …]}, "errors": [console errors]}. Further keys of the input, all optional:
// "screenshot": file to write; "expand", "pin": patterns of the track groups to open and the tracks to pin; "from", "to":
// what to zoom to, in seconds since the trace's start; "width", "height": of the picture.
import { chromium } from "playwright-core";
import { readFileSync } from "node:fs";

const ask = JSON.parse(readFileSync(0, "utf8"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
    // A user would be asked whether the page may fetch from this machine, and press "Allow".
    "--disable-features=LocalNetworkAccessChecks",
  ],
});
let failed;
try {
  const page = await browser.newPage({ viewport: { width: ask.width ?? 1600, height: ask.height ?? 1000 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(ask.link);
  await page.waitForFunction(() => / - Perfetto UI$/.test(document.title) && window.app?.trace, null, { timeout: 60000 });
  await page.evaluate(() => window.waitForPerfettoIdle?.());

  const results = {};
  for (const [name, sql] of Object.entries(ask.queries ?? {})) {
    results[name] = await page.evaluate(async (sql) => {
      const result = await window.app.trace.engine.query(sql);
      const rows = [];
      for (const it = result.iter({}); it.valid(); it.next()) {
        const row = {};
        for (const column of result.columns()) {
          const value = it.get(column);
          row[column] = typeof value === "bigint" ? Number(value) : value;
        }
        rows.push(row);
      }
      return rows;
    }, sql);
  }

  if (ask.screenshot) {
    await page.evaluate(async ({ expand, pin, from, to }) => {
      const { commands, timeline, traceInfo } = window.app.trace;
      commands.runCommand("dev.perfetto.ToggleLeftSidebar");
      for (const pattern of expand ?? []) commands.runCommand("dev.perfetto.ExpandTracksByRegex", pattern);
      for (const pattern of pin ?? []) commands.runCommand("dev.perfetto.PinTracksByRegex", pattern);
      const at = (seconds) => traceInfo.start + BigInt(Math.round(seconds * 1e9));
      if (to !== undefined) timeline.setViewportTime(at(from ?? 0), at(to));
    }, { expand: ask.expand, pin: ask.pin, from: ask.from, to: ask.to });
    await page.waitForTimeout(500);
    await page.evaluate(() => window.waitForPerfettoIdle?.());
    await page.screenshot({ path: ask.screenshot });
  }
  console.log(JSON.stringify({ title: await page.title(), results, errors }));
} catch (error) {
  failed = error;
} finally {
  await browser.close();
}
if (failed) {
  console.error(String(failed));
  process.exit(1);
}
