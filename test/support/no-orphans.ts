import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

/*
 * No program outlives the tests that started it, whatever ends them: kill -9, a time-out, Ctrl-C. What is started inherits a
 * mark in its environment; a shell outside the process group waits for the end of this process, which closes a pipe, and
 * kills whatever carries the mark. `test/run.ts` marks all files of a run; a file that is started by hand imports this module
 * and marks what it starts.
 */
const MARK = 'HEDGEROW_TEST_RUN'
/** Again, since what is killed may have started something meanwhile. */
const SWEEP = `cat > /dev/null
for round in 1 2 3 4 5 6 7 8 9 10; do
  found=$(grep -lzxF "$0" /proc/[0-9]*/environ 2> /dev/null) # its exit code tells of processes that ended meanwhile
  [ -n "$found" ] || exit 0
  for environ in $found; do pid=\${environ#/proc/}; kill -9 "\${pid%/environ}" 2> /dev/null; done
  sleep 0.1
done`

if (process.env[MARK] === undefined && process.platform === 'linux') markAndWatch()

function markAndWatch(): void {
  const { [MARK]: _, ...unmarked } = process.env
  const mark = `${process.pid}-${Date.now()}`
  process.env[MARK] = mark
  const watcher = spawn('sh', ['-c', SWEEP, `${MARK}=${mark}`], {
    detached: true,
    env: unmarked,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  watcher.on('error', () => undefined) // no shell, no watcher
  watcher.unref()
  ;(watcher.stdin as unknown as { unref(): void }).unref()
}

/** Kills what carries this variable in its environment; how many that were. */
export function killMarked(variable: string): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && environmentOf(name).includes(variable))
  for (const pid of pids) {
    try {
      process.kill(Number(pid), 'SIGKILL')
    } catch {
      // ended by itself
    }
  }
  return pids.length
}

function environmentOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  } catch {
    return [] // ended, or of another user
  }
}
