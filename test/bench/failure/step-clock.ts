/**
 * Loaded before a role of the benchmark (`NODE_OPTIONS=--import`): its wall clock is off by what the file CLOCK_STEP_FILE says, in
 * milliseconds, also while it runs. A time namespace cannot do that: it moves monotonic clocks only. OpenSSL, which looks at the
 * validity of certificates, sees the true time.
 */
import { readFileSync } from 'node:fs'

/** Between reads of the file. */
const READ_MS = 50

const file = process.env['CLOCK_STEP_FILE']
const TrueDate = Date
let stepMs = 0

class SteppedDate extends TrueDate {
  constructor(...given: [] | [number]) {
    if (given.length === 0) super(SteppedDate.now())
    else super(...given)
  }

  static override now(): number {
    return TrueDate.now() + stepMs
  }
}

if (file !== undefined) {
  globalThis.Date = SteppedDate as DateConstructor
  const readStep = () => {
    try {
      stepMs = Number(readFileSync(file, 'utf8')) || 0
    } catch {
      stepMs = 0 // nobody stepped it yet
    }
  }
  readStep()
  setInterval(readStep, READ_MS).unref()
}
