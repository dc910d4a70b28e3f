/**
 * Ours and the peers in turns, on the same testbed, under the same load; medians of the rounds, and ratios of medians. Load, proxies
 * and origins share the machine's cores, so only the ratios mean something.
 *
 *     npm run bench                         as root: two namespaces and a cable; otherwise on loopback, with what is possible there
 *     npm run bench -- --rounds 3 --seconds 2 --only 'stream|DNS' --json --loopback --no-install
 *     npm run bench -- --starts 3 --against ../before     two versions in turns, each started three times
 *     npm run bench -- --no-aes --only udp         as on a processor without AES instructions
 *     npm run bench -- --growth --out DIR   how cost grows, as text and SVG
 *
 * With --json one object a line: {"measure", "ours", "peer", "peerName", "unit", "ratio", "goal", "ok", "load"}. A row that is told
 * without a goal has the goal 0 (more is better) or 1000000 (less is better); `ok` is null where the machine was busy.
 */
import { scriptOptions } from '../../.config/script-options.ts'
import type { Bench } from './bench.ts'
import { openBenches } from './benches.ts'
import { Watch } from './busy.ts'
import { buildPeers } from './go-peers.ts'
import { growth } from './growth.ts'
import { scenariosFor } from './plan.ts'
import { possible, run } from './run.ts'
import { Figures, OURS, rowsOf, tableOf } from './table.ts'
import { machine, ready, type Tool } from './tools.ts'
import { NO_AES, variantsOf, withVariants } from './variants.ts'

const values = scriptOptions({
  name: 'npm run bench',
  about: 'Measures hedgerow and the tools it is compared with in turns, on the same testbed, under the same load.',
  options: {
    rounds: { kind: 'number', default: 3, meaning: 'rounds, whose medians are printed' },
    starts: { kind: 'number', default: 1, meaning: 'how often everything is started anew, with all rounds each time' },
    seconds: { kind: 'number', default: 2, meaning: 'how long each figure is measured in a round' },
    only: { kind: 'pattern', meaning: 'only rows whose measure, or whose peer, matches' },
    against: { kind: 'text', meaning: 'the folder of another checkout, whose agents are measured in turns with ours' },
    'no-aes': { kind: 'flag', meaning: 'OpenSSL uses no AES instructions; ours, and ours that insists on AES' },
    json: { kind: 'flag', meaning: 'prints one JSON object a line' },
    growth: { kind: 'flag', meaning: 'measures how cost grows with flows, streams, messages and services instead' },
    out: { kind: 'text', meaning: 'with --growth: the folder for the drawings' },
    loopback: { kind: 'flag', meaning: 'on loopback, also as root' },
    'busy-anyway': { kind: 'flag', meaning: 'judges figures also when other programs use the machine' },
    'no-install': { kind: 'flag', meaning: 'calls neither apt-get nor go' },
  },
})
const rounds = Math.max(1, values.rounds)
const starts = Math.max(1, Math.round(values.starts))
const seconds = Math.max(1, values.seconds)
const note = (line: string) => void process.stderr.write(`${line}\n`)
const print = (line: string) => void process.stdout.write(`${line}\n`)
const about = values.json ? note : print

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) return
    note('\nclearing up')
    abort.abort(new Error(signal))
  })
}
const over = new Promise<void>((resolve) => abort.signal.addEventListener('abort', () => resolve(), { once: true }))

const chosen = scenariosFor(values.only)
if (chosen.length === 0) {
  note(`npm run bench: no row matches ${String(values.only)}`)
  process.exit(2)
}
try {
  const { watch, said } = await Watch.start(values['busy-anyway'])
  const variants = variantsOf({ against: values.against, noAes: values['no-aes'] })
  if (values['no-aes']) Object.assign(process.env, NO_AES)
  const others = variants.map(({ name }) => name).filter((name) => name !== OURS)
  const scenarios = withVariants(chosen, others)
  const wanted = new Set<Tool>(
    scenarios.flatMap(({ needs, lanes }) => [...needs, ...lanes.flatMap((lane) => lane.needs ?? [])]),
  )
  const built = values['no-install'] ? new Map<Tool, string>() : await buildPeers(wanted, note)
  const tools = ready(wanted, !values['no-install'], note)
  for (const line of machine(tools, built)) about(line)
  about(said)
  const figures = new Figures()
  const failures: string[] = []
  for (let start = 1; start <= starts && !abort.signal.aborted; start++) {
    if (starts > 1) note(`start ${start} of ${starts}`)
    await using opened = await openBenches(variants, { tools, seconds, say: note, loopback: values.loopback })
    const { bench, why } = opened
    if (start === 1) about(why === undefined ? 'two namespaces joined by a veth pair' : `loopback: ${why}`)
    if (values.growth) await Promise.race([growth(bench, { out: values.out, print, signal: abort.signal }), over])
    else failures.push(...((await Promise.race([measure(bench, start - 1), over])) ?? []))
  }
  if (!values.growth && !abort.signal.aborted) printRows(figures, failures)

  async function measure(bench: Bench, start: number): Promise<string[]> {
    const { kept, left } = possible(scenarios, bench)
    const isFirst = start === 0
    if (isFirst) for (const line of left) about(line)
    const times = starts === 1 ? '' : ` after each of ${starts} starts`
    if (isFirst) about(`medians of ${rounds} rounds of ${seconds} s${times}\n`)
    return run(kept, bench, { rounds, start, signal: abort.signal, figures, watch })
  }

  function printRows(figures: Figures, failures: readonly string[]): void {
    const specs = scenarios.flatMap(({ rows }) => rows)
    const rows = rowsOf(specs, figures, watch)
    for (const line of values.json ? rows.map((row) => JSON.stringify(row)) : tableOf(rows, specs)) print(line)
    for (const line of failures) note(`failed: ${line}`)
    if (failures.length > 0) process.exitCode = 1
  }
} catch (error) {
  note(`the benchmark failed: ${(error as Error).message}`)
  process.exitCode = 1
}
process.exit(abort.signal.aborted ? 130 : process.exitCode) // what was under way when all was ended is of no interest
