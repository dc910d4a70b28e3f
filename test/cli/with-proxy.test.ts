import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { eventually } from './program.ts'
import '../support/no-orphans.ts'
import { heard } from '../support/heard.ts'

/* What becomes of the command when `with-proxy` itself is killed with SIGKILL. */

const ROOT = resolve(import.meta.dirname, '../..')
t.setTimeout(280_000)

/** A process that runs a command as `hedgerow with-proxy` does; resolves to the first line that the command prints. */
async function run(...command: readonly string[]) {
  const script = `
    import { runHere } from './src/cli/with-proxy.ts'
    process.exitCode = await runHere(${JSON.stringify(command)}, process.env)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const line = await heard(child.stdout)
  return { child, line: String(line).trim() }
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))
  } catch {
    return false
  }
}

/** The shells that wait for the end of a `with-proxy` whose command has this number. */
function watchersOf(pid: number): string[] {
  return readdirSync('/proc').filter((name) => {
    try {
      return (
        /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'latin1').endsWith(`"$0" 2> /dev/null\0${pid}\0`)
      )
    } catch {
      return false // it has ended
    }
  })
}

t.test('the command ends with with-proxy, also when that is killed with SIGKILL', async (t) => {
  const { child, line } = await run('sh', '-c', 'trap "" TERM HUP INT; echo $$; while :; do sleep 0.1; done')
  const pid = Number(line)
  t.teardown(() => isAlive(pid) && process.kill(pid, 'SIGKILL'))
  await eventually(async () => watchersOf(pid).length === 1, 'a shell waits')
  t.ok(isAlive(pid), 'the command runs')
  child.kill('SIGKILL')
  await eventually(async () => !isAlive(pid), 'the command has ended')
  await eventually(async () => watchersOf(pid).length === 0, 'and so has the shell')
})

t.test('a command that ends by itself leaves nothing behind', async (t) => {
  const { child, line } = await run('sh', '-c', 'echo $$; read -r wait < /proc/sys/kernel/pid_max; exit 7')
  const [code] = (await once(child, 'exit')) as [number]
  t.equal(code, 7)
  await eventually(async () => watchersOf(Number(line)).length === 0, 'the shell has ended')
})
