import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { explain, isMeshError, MeshError } from '../core/errors.ts'
import { unlessAborted } from '../core/kit/abort.ts'
import { rootClient, type Context } from './context.ts'
import { isData, printData } from './output.ts'
import { shown } from './terminal.ts'
import { keyIn, rowCount, rowsThatFit, type Screen, topText, turned, type TopFacts } from './top-view.ts'

/** How often is asked. Smaller: more work for the root; larger: people wait. */
const EVERY_MS = 2_000
/** Between two questions at least so many times as long as the one before took: a large mesh is asked less often. */
const REST = 5

/** Another page of the terminal, which leaves what was there; without a cursor. */
const ENTER = '\u001b[?1049h\u001b[?25l'
const LEAVE = '\u001b[?25h\u001b[?1049l'
const HOME = '\u001b[H'
const REST_OF_LINE = '\u001b[K'
const REST_OF_SCREEN = '\u001b[J'
/** Where there is no terminal. */
const PLAIN_COLUMNS = 160
const HELP = 'q quit   tab services, nodes   ↑ ↓ space move'

export function topCommand(program: Command, context: () => Context): void {
  program
    .command('top')
    .description('show services and nodes as they are now, on the whole terminal, until q is pressed')
    .option('--once', 'print them once, all of them, and end; also where there is no terminal')
    .option('--nodes', 'begin with the nodes')
    .action(async ({ once: isOnce, nodes }: { once?: boolean; nodes?: boolean }) => {
      const here = context()
      const list = nodes ? 'nodes' : 'services'
      const root = rootClient(here)
      if (isOnce) return printOnce(await factsOf(root), list, here)
      const { stdin, stdout } = process
      if (!stdin.isTTY || !stdout.isTTY)
        throw new MeshError('USAGE', {
          reason: 'top draws on a terminal, and this is none',
          remedy: 'Add --once, or run `hedgerow get services --watch`.',
        })
      if (isData(here)) throw new MeshError('USAGE', { option: '-o', given: here.format, remedy: 'Add --once.' })
      await onTerminal(root, list)
    })
}

async function printOnce(facts: TopFacts, list: Screen['list'], context: Context): Promise<void> {
  if (isData(context)) return printData(facts, context)
  const columns = process.stdout.isTTY ? process.stdout.columns : PLAIN_COLUMNS
  const text = topText(facts, { list, from: 0, columns, lines: undefined, now: Date.now() })
  process.stdout.write(shown(`${text}\n`, process.stdout))
}

async function factsOf(root: RootClient, signal?: AbortSignal): Promise<TopFacts> {
  const limit = signal === undefined ? {} : { signal }
  const [clusters, nodes, services, instances] = await Promise.all([
    root.all('/v1/clusters', {}, limit),
    root.all('/v1/nodes', {}, limit),
    root.all('/v1/services', {}, limit),
    root.all('/v1/instances', { query: { usage: true } }, limit),
  ])
  return { clusters, nodes, services, instances }
}

/** Draws until q, Ctrl-C or a signal; the terminal is then as it was. */
async function onTerminal(root: RootClient, list: Screen['list']): Promise<void> {
  let facts = await factsOf(root) // who has no root or no credential is told so before the screen changes
  const { stdin, stdout } = process
  const ended = new AbortController()
  const { signal } = ended
  let place: Pick<Screen, 'list' | 'from'> = { list, from: 0 }
  let problem: string | undefined
  const draw = () => {
    const { columns, rows: lines } = stdout
    const text = topText(facts, { ...place, columns, lines, now: Date.now(), problem })
    const whole = [...text.split('\n'), '', HELP.slice(0, columns)]
    stdout.write(HOME + shown(whole.map((line) => line + REST_OF_LINE).join('\r\n'), stdout) + REST_OF_SCREEN)
  }
  const pressed = (typed: string) => {
    const key = keyIn(typed)
    if (key === 'quit') return ended.abort()
    if (key === undefined) return undefined
    place = turned(place, key, { count: rowCount(facts, place.list), fit: rowsThatFit(stdout.rows) })
    return draw()
  }
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => ended.abort())
  stdout.once('error', () => ended.abort()) // the terminal has gone
  stdin.setRawMode(true).setEncoding('utf8').on('data', pressed)
  stdout.on('resize', draw)
  stdout.write(ENTER)
  try {
    while (!signal.aborted) {
      draw()
      const began = performance.now()
      const next = await unlessAborted(answered(root, signal), signal).catch(() => undefined)
      if (signal.aborted || next === undefined) break
      problem = 'problem' in next ? next.problem : undefined
      facts = 'problem' in next ? facts : next
      await sleep(Math.max(EVERY_MS, (performance.now() - began) * REST), undefined, { signal }).catch(() => undefined)
    }
  } finally {
    stdout.off('resize', draw)
    stdin.off('data', pressed).setRawMode(false).pause()
    stdout.write(LEAVE)
  }
}

/** A root that is away is told on the screen, and what was known stays. */
async function answered(root: RootClient, signal: AbortSignal): Promise<TopFacts | { problem: string }> {
  try {
    return await factsOf(root, signal)
  } catch (error) {
    if (isMeshError(error, 'NOT_RUNNING') || isMeshError(error, 'REQUEST_TIMEOUT') || signal.aborted)
      return { problem: `${explain(error)}; this is how it was last.` }
    throw error
  }
}
