/**
 * Ours and the peers in turns, on the same testbed, under the same load; medians of the rounds, and ratios of medians. Load, proxies
 * and origins share the machine's cores, so only the ratios mean something.
 *
 *     npm run bench                         as root: two namespaces and a cable; otherwise on loopback, with what is possible there
 *     npm run bench -- --rounds 3 --seconds 2 --only 'stream|DNS' --json --loopback --no-install
 *     npm run bench -- --growth --out DIR   how cost grows, as text and SVG
 *
 * With --json one object a line: {"measure", "ours", "peer", "peerName", "unit", "ratio", "goal", "ok"}. A row that is told without
 * a goal has the goal 0 (more is better) or 1000000 (less is better).
 */
import { scriptOptions } from '../../.config/script-options.ts'
import { Bench } from './bench.ts'
import { Testbed } from './testbed.ts'
import { growth } from './growth.ts'
import { scenariosFor } from './plan.ts'
import { possible, run } from './run.ts'
import { rowsOf, tableOf } from './table.ts'
import { machine, ready, type Tool } from './tools.ts'

const values = scriptOptions({
  name: 'npm run bench',
  about: 'Measures hedgerow and the tools it is compared with in turns, on the same testbed, under the same load.',
  options: {
    rounds: { kind: 'number', default: 3, meaning: 'rounds, whose medians are printed' },
    seconds: { kind: 'number', default: 2, meaning: 'how long each figure is measured in a round' },
    only: { kind: 'pattern', meaning: 'only rows whose measure, or whose peer, matches' },
    json: { kind: 'flag', meaning: 'prints one JSON object a line' },
    growth: { kind: 'flag', meaning: 'measures how cost grows with flows, services and instances instead' },
    out: { kind: 'text', meaning: 'with --growth: the folder for the drawings' },
    loopback: { kind: 'flag', meaning: 'on loopback, also as root' },
    'no-install': { kind: 'flag', meaning: 'never calls apt-get' },
  },
})
const rounds = Math.max(1, values.rounds)
const seconds = Math.max(1, values.seconds)
const note = (line: string) => void process.stderr.write(`${line}\n`)
const print = (line: string) => void process.stdout.write(`${line}\n`)

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) return
    note('\nclearing up')
    abort.abort(new Error(signal))
  })
}

const scenarios = scenariosFor(values.only)
if (scenarios.length === 0) {
  note(`npm run bench: no row matches ${String(values.only)}`)
  process.exit(2)
}
const wanted = new Set<Tool>(
  scenarios.flatMap(({ needs, lanes }) => [...needs, ...lanes.flatMap((lane) => lane.needs ?? [])]),
)
const tools = ready(wanted, !values['no-install'], note)
const about = values.json ? note : print
try {
  const { testbed, why } = await Testbed.open({ loopback: values.loopback })
  const over = new Promise<void>((resolve) => abort.signal.addEventListener('abort', () => resolve(), { once: true }))
  try {
    for (const line of machine(tools)) about(line)
    about(why === undefined ? 'two namespaces joined by a veth pair' : `loopback: ${why}`)
    const bench = new Bench(testbed, tools, seconds, note)
    if (values.growth) await Promise.race([growth(bench, { out: values.out, print, signal: abort.signal }), over])
    else await Promise.race([compare(bench), over])
  } finally {
    await testbed[Symbol.asyncDispose]()
  }
} catch (error) {
  note(`the benchmark failed: ${(error as Error).message}`)
  process.exitCode = 1
}
process.exit(abort.signal.aborted ? 130 : process.exitCode) // what was under way when all was ended is of no interest

async function compare(bench: Bench): Promise<void> {
  const { kept, left } = possible(scenarios, bench)
  for (const line of left) about(line)
  about(`medians of ${rounds} rounds of ${seconds} s\n`)
  const { figures, failures } = await run(kept, bench, rounds, abort.signal)
  const specs = kept.flatMap(({ rows }) => rows)
  const rows = rowsOf(specs, figures)
  for (const line of values.json ? rows.map((row) => JSON.stringify(row)) : tableOf(rows, specs)) print(line)
  for (const line of failures) note(`failed: ${line}`)
  if (failures.length > 0) process.exitCode = 1
}
