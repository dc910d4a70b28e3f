import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Program } from '../../src/lab/program.ts'
import type { LoadReport } from './load.ts'
import { check, PORT } from './shell.ts'
import { ask, type Machine } from './stage.ts'
import type { Teller } from './tell.ts'

/** Load before and after what happens, so that the figures show the way into it and out of it. */
const MARGIN_MS = 1_000

interface Load {
  machine: Machine
  name: string
  /** Requests a second. */
  rate: number
  tell: Teller
  signal: AbortSignal
}

/** Runs `act` while requests for `name` come in from `machine`, and tells what became of them. */
export async function underLoad<T>(
  { machine, name, rate, tell, signal }: Load,
  act: () => Promise<T>,
): Promise<{ load: LoadReport; result: T }> {
  const { ipv4 } = await ask<{ ipv4: string }>(machine, ['resolve', name])
  const generator = [process.execPath, join(import.meta.dirname, 'load.ts')]
  const argv = machine.argv([...generator, ipv4, String(PORT), name, String(rate)])
  await using program = Program.start(argv)
  await sleep(MARGIN_MS, undefined, { signal })
  const result = await act()
  await sleep(MARGIN_MS, undefined, { signal })
  program.signal('SIGTERM')
  const how = await program.exited
  const last = program.lines.at(-1) ?? ''
  check(last.startsWith('{'), `the load generator ended with ${how}: ${last}`)
  const load = JSON.parse(last) as LoadReport
  const why = load.failed === 0 ? '' : ` (${JSON.stringify(load.errors)})`
  tell.fact(`${load.sent} requests sent, ${load.answered} answered, ${load.failed} failed${why}`)
  tell.fact(
    `median ${load.medianMs} ms, 99 % within ${load.p99Ms} ms; ${load.longestGapMs} ms the longest without an answer`,
  )
  check(load.failed <= load.sent / 20, `more than one in twenty requests failed: ${load.failed} of ${load.sent}`)
  return { load, result }
}
