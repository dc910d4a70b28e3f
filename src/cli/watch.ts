import { setTimeout as sleep } from 'node:timers/promises'
import { explain, isMeshError } from '../core/errors.ts'
import type { Context } from './context.ts'
import { dataText, isData, printData } from './output.ts'
import { shown, note } from './terminal.ts'

/** How often is asked. Smaller: more work for the root or agent; larger: people wait. */
const EVERY_MS = 1_000
/** To the upper left corner, and nothing below. */
const ANEW = '\u001b[H\u001b[2J\u001b[3J'

export const WATCH = ['-w, --watch', 'show it again whenever it changes, until Ctrl-C'] as const

/** What a command shows: an object for programs, and its text for people. */
export interface View {
  value: unknown
  text: string
  /** About it, for people: to standard error. */
  note?: string
}

export interface WatchParts {
  read: () => Promise<View>
  context: Pick<Context, 'format'>
  output: { write: (text: string) => unknown; isTTY?: boolean }
  sleep: () => Promise<unknown>
  signal: AbortSignal
}

/** Shows it once; with `--watch` again and again. */
export async function showOrWatch(read: () => Promise<View>, context: Context, isWatched = false): Promise<void> {
  if (!isWatched) {
    const view = await read()
    if (isData(context)) return printData(view.value, context)
    process.stdout.write(shown(view.text, process.stdout))
    if (view.note !== undefined) note(view.note)
    return
  }
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.stdout.once('error', () => interrupted.abort()) // the reader of our output has gone
  const { signal } = interrupted
  const wait = () => sleep(EVERY_MS, undefined, { signal }).catch(() => undefined)
  await watch({ read, context, output: process.stdout, sleep: wait, signal })
}

/**
 * Shows what is read whenever it has changed: on a terminal in place of what was there, else behind it, as JSON one object a line,
 * as YAML one document after the other. Who does not answer is told once, and asked on.
 */
export async function watch({ read, context, output, sleep: wait, signal }: WatchParts): Promise<void> {
  let last: string | undefined
  for (let isAway = false; !signal.aborted; await wait()) {
    let view: View
    try {
      view = await read()
      isAway = false
    } catch (error) {
      if (last === undefined || !(isMeshError(error, 'NOT_RUNNING') || isMeshError(error, 'REQUEST_TIMEOUT')))
        throw error
      if (!isAway) note(`${explain(error)}; going on when it answers again.`)
      isAway = true
      continue
    }
    const text = isData(context) ? await dataText(view.value, context.format, 'stream') : view.text
    if (text === last || signal.aborted) continue
    const isScreen = output.isTTY === true && !isData(context)
    output.write(`${isScreen ? ANEW : last === undefined || isData(context) ? '' : '\n'}${shown(text, output)}`)
    last = text
  }
}
