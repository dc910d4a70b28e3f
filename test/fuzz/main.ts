/**
 * Fuzzes every decoder that takes bytes from elsewhere.
 *
 *     npm run fuzz                               one minute, all targets in turns
 *     npm run fuzz -- --minutes 30 --only dns    as long as asked, targets whose name matches
 *     npm run fuzz -- --seed 7                   the same inputs again
 *
 * Findings are written to test/fuzz/corpus/<target>/ and run first from then on, also by `npm test` (test/fuzz/fuzz.test.ts). The
 * exit code is 1 when there are any. A decoder that never returns is found by a watchdog on another thread.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { scriptOptions } from '../../.config/script-options.ts'
import { Fuzzer, keep, loadTargets, type Finding } from './fuzzer.ts'

interface Settings {
  minutes: number
  only: RegExp | undefined
  seed: number
  /**
   * The input under way, which the watchdog reads when the fuzzing thread is stuck in it:
   *
   *     length (4) │ inputs begun so far, modulo 2³² (4) │ input
   */
  underWay: SharedArrayBuffer
}
type Report =
  | { kind: 'running'; target: string }
  | { kind: 'finding'; finding: Finding }
  | { kind: 'done'; rows: { target: string; executions: number; outcomes: number; findings: number }[] }

const ROUND = 2_000
/** One input that is under way for longer than this hangs the decoder. */
const HANG_MS = 20_000
const HEADER_BYTES = 8
const INPUT_BYTES = 128 * 1024

if (isMainThread) watch()
else await fuzz(workerData as Settings)

function watch(): void {
  const values = scriptOptions({
    name: 'npm run fuzz',
    about: 'Fuzzes every decoder that takes bytes from elsewhere. Ends with 1 when it found a fault.',
    options: {
      minutes: { kind: 'number', default: 1, meaning: 'how long' },
      only: { kind: 'pattern', meaning: 'only decoders whose name matches' },
      seed: { kind: 'number', meaning: 'the same inputs again; by default others each time' },
    },
  })
  const settings: Settings = {
    minutes: values.minutes,
    only: values.only,
    seed: values.seed ?? Date.now() % 1_000_000,
    underWay: new SharedArrayBuffer(HEADER_BYTES + INPUT_BYTES),
  }
  console.log(`fuzzing for ${settings.minutes} min, seed ${settings.seed}`)
  const worker = new Worker(new URL(import.meta.url), { workerData: settings })
  let target = ''
  const shared = Buffer.from(settings.underWay)
  let begun = -1
  const watchdog = setInterval(() => {
    const now = shared.readUInt32LE(4)
    if (now === begun) hung()
    begun = now
  }, HANG_MS)
  worker.on('message', (report: Report) => {
    if (report.kind === 'running') target = report.target
    else if (report.kind === 'finding') {
      const { target, reason, input } = report.finding
      console.log(`FOUND ${target}: ${reason}\n      ${keep({ target, input: Buffer.from(input) })}`)
      process.exitCode = 1
    } else {
      clearInterval(watchdog)
      console.log('target                           executions  outcomes  findings')
      for (const { target, executions, outcomes, findings } of report.rows) {
        console.log(
          `${target.padEnd(30)} ${String(executions).padStart(12)} ${String(outcomes).padStart(9)} ${String(findings).padStart(9)}`,
        )
      }
    }
  })
  worker.on('error', (error) => {
    console.log(`the fuzzer failed: ${error.stack}`)
    process.exit(1)
  })
  const hung = () => {
    const input = Buffer.from(shared.subarray(HEADER_BYTES, HEADER_BYTES + shared.readUInt32LE(0)))
    console.log(`FOUND ${target}: one input took more than ${HANG_MS / 1_000} s\n      ${keep({ target, input })}`)
    process.exit(1)
  }
}

async function fuzz({ minutes, only, seed, underWay }: Settings): Promise<void> {
  const post = (report: Report) => parentPort?.postMessage(report)
  const targets = await loadTargets(only)
  if (targets.length === 0) throw new Error(`no target matches ${String(only)}`)
  const shared = Buffer.from(underWay)
  let begun = 0
  const note = (input: Buffer) => {
    shared.writeUInt32LE(Math.min(input.length, INPUT_BYTES), 0)
    shared.writeUInt32LE(++begun >>> 0, 4)
    input.copy(shared, HEADER_BYTES)
  }
  const alive = setInterval(() => undefined, HANG_MS) // a decoder that waits for ever is for the watchdog
  const fuzzers = targets.map((target) => new Fuzzer(target, seed, note))
  const reported = new Map<Fuzzer, number>()
  const endsAt = performance.now() + minutes * 60_000
  do {
    for (const fuzzer of fuzzers) {
      post({ kind: 'running', target: fuzzer.target.name })
      await fuzzer.run(ROUND)
      await nextTurn() // timers and promises that the inputs left behind would pile up for as long as the run takes
      for (const finding of fuzzer.findings.slice(reported.get(fuzzer) ?? 0)) post({ kind: 'finding', finding })
      reported.set(fuzzer, fuzzer.findings.length)
    }
  } while (performance.now() < endsAt)
  const rows = fuzzers.map(({ target, executions, outcomes, findings }) => ({
    target: target.name,
    executions,
    outcomes,
    findings: findings.length,
  }))
  post({ kind: 'done', rows })
  clearInterval(alive)
}
