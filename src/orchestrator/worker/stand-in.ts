import { closeSync, constants, existsSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { KeptLogWriter } from './kept-log.ts'
import { leaveRest, pipeOwner, takeRest, type OutputFiles } from './output-files.ts'
import { OutputLines, stamped } from './output-lines.ts'
import { statOf } from './process-group.ts'

/*
 * A program of its own, started by the guard (output-guard.ts) while the agent is gone or stopped: reads what all instances print and
 * keeps it as the agent does. It reads only while it has just seen that the agent does not, so that never two read at once:
 *
 *     agent stopped: read, wait 250 ms        gone: the same, until every program has ended or the next agent sends SIGTERM
 *     agent well again: end
 */

/** Smaller wakes more often; larger makes times less exact and programs slower (64 KiB and this long for each read). */
const TICK_MS = 250
const READ_BYTES = 64 * 1024
/** In one tick, of one program: one that floods is slowed to about 1 MiB/s, which a memory card survives. */
const READS = 4

interface Source {
  fd: number
  files: OutputFiles
  lines: OutputLines
  kept: KeptLogWriter
}

const [runDir = '', logsDir = '', pid, startTime] = process.argv.slice(2)
const clock = { wall: () => Date.now() }
const chunk = Buffer.alloc(READ_BYTES)
const sources = open()
process.once('SIGTERM', () => {
  for (const { files, lines } of sources) leaveRest(files, lines.rest())
  process.exit(0)
})
for (;;) {
  const agent = stateOfAgent()
  if (agent === 'well' || !existsSync(runDir)) break // the state of the agent may be removed while a program runs
  for (const source of sources) if (!drain(source)) forget(source)
  if (agent === 'gone' && sources.size === 0) break
  await sleep(TICK_MS)
}
for (const source of sources) forget(source)
process.exit(0)

function open(): Set<Source> {
  const found = new Set<Source>()
  for (const file of existsSync(runDir) ? readdirSync(runDir) : []) {
    const name = pipeOwner(file)
    if (name === undefined) continue
    const files = { pipe: join(runDir, file), rest: join(runDir, `${name}.rest`), kept: join(logsDir, `${name}.log`) }
    const fd = openSync(files.pipe, constants.O_RDONLY | constants.O_NONBLOCK)
    found.add({ fd, files, lines: new OutputLines(takeRest(files)), kept: new KeptLogWriter(files.kept, clock) })
  }
  return found
}

function stateOfAgent(): 'well' | 'stopped' | 'gone' {
  const stat = statOf(Number(pid))
  if (stat === undefined || stat.startTime !== Number(startTime) || /[ZX]/.test(stat.state)) return 'gone'
  return /[Tt]/.test(stat.state) ? 'stopped' : 'well'
}

/** False when no program has the pipe open any more. */
function drain({ fd, lines, kept }: Source): boolean {
  for (let reads = 0; reads < READS; reads += 1) {
    const bytes = read(fd)
    if (bytes === undefined) return true
    if (bytes === 0) return false
    say(kept, lines.take(chunk.subarray(0, bytes)))
  }
  return true
}

/** `undefined` when there is nothing now. */
function read(fd: number): number | undefined {
  try {
    return readSync(fd, chunk)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined
    return 0 // not a pipe any more
  }
}

function forget(source: Source): void {
  say(source.kept, source.lines.end())
  closeSync(source.fd)
  sources.delete(source)
}

function say(kept: KeptLogWriter, lines: readonly string[]): void {
  if (lines.length > 0) kept.append(`${stamped(lines, clock.wall()).join('\n')}\n`)
}
