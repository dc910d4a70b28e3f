#!/usr/bin/env -S node --max-semi-space-size=2 --single-threaded-gc
// What an agent reads becomes much external and little heap garbage: a small young generation frees it early, and on one
// thread, since helper threads cost more than they save. Measured on one stream: 1.8 instead of 1.3–1.5 Gbit/s.
// The launcher. Plain JavaScript that an old Node can parse, so that it can say what is wrong instead of failing on
// the first line it does not know. Everything else starts in main.
import { existsSync } from 'node:fs'
import module from 'node:module'
import { fileURLToPath } from 'node:url'

const NEEDED = [24, 19]

const version = process.versions.node.split('.').map(Number)
const isOld = version[0] < NEEDED[0] || (version[0] === NEEDED[0] && version[1] < NEEDED[1])

if (isOld) {
  const isClone = existsSync(fileURLToPath(new URL('./main.ts', import.meta.url)))
  process.stderr.write(
    `hedgerow needs Node ${NEEDED.join('.')} or newer; this is Node ${process.versions.node} (${process.execPath}).\n` +
      (isClone
        ? 'In this clone, `npm run hedgerow -- …` uses the Node 24 that `npm ci` brought along.\n'
        : `Run it with \`npx --package node-${process.platform}-${process.arch}@24 --package hedgerow -- hedgerow …\`, or get Node 24 from https://nodejs.org.\n`),
  )
  process.exitCode = 1
} else {
  const built = fileURLToPath(new URL('./main.js', import.meta.url))
  const isBuilt = existsSync(built)
  // In a clone, code stripped of its types is kept between runs: each command starts in half the time.
  if (!isBuilt) module.enableCompileCache(fileURLToPath(new URL('../node_modules/.cache/hedgerow', import.meta.url)))
  // A failure to load is printed, and ends the program, by Node itself.
  void import(isBuilt ? './main.js' : './main.ts')
}
