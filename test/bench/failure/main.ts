/**
 * What a client notices when something fails: a request every 5 ms through a semantic name, while instances, machines and the control
 * plane are killed, cut off, drained and updated. With real processes in an emulated world, as root.
 *
 *     npm run bench:failure                                      all faults, one after the other
 *     npm run bench:failure -- --only 'killed' --svg failure.svg  those whose name matches, and a picture
 *     npm run bench:failure -- --json --every 5 --limit 2 --away 5 --margin 1.5 --services 1000 --no-install
 *
 * With --json one object a line: {"fault", "requests", "failed", "longestGapMs", "recoveredMs", "goal", "ok"}.
 */
import { writeFileSync } from 'node:fs'
import { scriptOptions } from '../../../.config/script-options.ts'
import { lacking } from '../../../src/lab/namespace.ts'
import { hasTool, installTools } from '../../../src/lab/system-tools.ts'
import { build, REPOSITORY } from '../build.ts'
import { machine } from '../tools.ts'
import { type FailureRow, tableOf } from './judge.ts'
import { PACE } from './load.ts'
import { chosen, strikeAll } from './run.ts'
import { timelineOf } from './timeline.ts'
import { FailureWorld } from './world.ts'

const values = scriptOptions({
  name: 'npm run bench:failure',
  about:
    'What a client notices when something fails: a request every 5 ms, one fault after the other; as root, in a lab.',
  options: {
    only: { kind: 'pattern', default: '.', meaning: 'only faults whose name matches' },
    json: { kind: 'flag', meaning: 'prints one JSON object a line' },
    svg: { kind: 'text', meaning: 'writes a timeline of all requests to this file' },
    away: { kind: 'number', default: 5, meaning: 'how many seconds something stays away' },
    margin: { kind: 'number', default: 1.5, meaning: 'how many seconds of load before each fault, and after it' },
    every: { kind: 'number', default: PACE.everyMs, meaning: 'how many milliseconds between two requests' },
    limit: { kind: 'number', default: PACE.limitMs / 1_000, meaning: 'how many seconds a request may take' },
    services: { kind: 'number', default: 1_000, meaning: 'how many other services are deleted at once' },
    'no-install': { kind: 'flag', meaning: 'never calls apt-get' },
  },
})
/** Another program, or the host of a virtual machine, took the processors. */
const REPEATS = 2
const TOOLS = ['ip', 'nft'] as const
const note = (line: string) => void process.stderr.write(`${line}\n`)
const print = (line: string) => void process.stdout.write(`${line}\n`)
const about = values.json ? note : print

if (chosen(values.only).length === 0) {
  note(`npm run bench:failure: no fault matches ${values.only}`)
  process.exit(2)
}
const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) return
    note('\nclearing up')
    abort.abort(new Error(signal))
  })
}

const rows: FailureRow[] = []
if (!values['no-install'])
  installTools(
    TOOLS.filter((tool) => !hasTool(tool)),
    note,
  )
try {
  const why = await lacking()
  if (why !== undefined) throw new Error(why)
  const hedgerow = await build(REPOSITORY)
  for (const line of machine(new Set())) if (line !== '') about(line)
  await using world = await FailureWorld.start({ hedgerow, say: note, signal: abort.signal })
  const bands = await strikeAll(world, {
    only: values.only,
    pace: { everyMs: values.every, limitMs: values.limit * 1_000 },
    awayMs: values.away * 1_000,
    marginMs: values.margin * 1_000,
    services: values.services,
    repeats: REPEATS,
    say: note,
    told: (row) => {
      rows.push(row)
      if (values.json) print(JSON.stringify(row))
    },
    signal: abort.signal,
  })
  if (values.svg !== undefined) writeFileSync(values.svg, timelineOf(bands))
} catch (error) {
  if (!abort.signal.aborted)
    note(
      `the benchmark failed: ${error instanceof Error ? `${error.stack}, since ${String(error.cause)}` : String(error)}`,
    )
  process.exitCode = 1
}
if (!values.json && rows.length > 0) for (const line of ['', ...tableOf(rows)]) print(line)
if (rows.some(({ ok }) => !ok)) process.exitCode = 1
process.exit(abort.signal.aborted ? 130 : process.exitCode)
