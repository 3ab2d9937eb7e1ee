#!/bin/sh
# playwright-core, which drives the Chromium of the system; no browser is downloaded.
set -eu

cd "$(dirname "$0")/../../e2e"
if cmp -s package-lock.json node_modules/.aiprof-lock; then
    echo "playwright-core: present"
    exit 0
fi
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent --no-audit --no-fund
cp package-lock.json node_modules/.aiprof-lock
echo "playwright-core: installed"
