import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { Option, type Command } from 'commander'
import { ignore } from '../core/kit/ignore.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'

export function withProxyCommand(program: Command, context: () => Context): void {
  program
    .command('with-proxy')
    .description(
      'run a command here, with the proxy variables set so that it can use semantic names: hedgerow with-proxy -- curl http://…',
    )
    .addOption(proxyOption())
    .passThroughOptions()
    .argument('<command...>', 'the command and its arguments')
    .action(async (command: string[], { proxy }: { proxy: ProxyKind }) => {
      process.exitCode = await runWithProxy(context(), command, proxy)
    })
}

export type ProxyKind = 'http' | 'socks'

export function proxyOption(): Option {
  return new Option('--proxy <kind>', 'the variables to set: http (HTTP_PROXY), socks (ALL_PROXY as well)')
    .choices(['http', 'socks'])
    .default('http')
}

/** Resolves to its exit code. */
export async function runWithProxy(context: Context, command: readonly string[], proxy: ProxyKind): Promise<number> {
  const proxies = (await agent(context, '/proxy-environment')) as Record<string, string>
  const wanted = Object.entries(proxies).filter(([key]) => proxy === 'socks' || !/^all_proxy$/i.test(key))
  return runHere(command, { ...context.environment, ...Object.fromEntries(wanted) })
}

/** The command's own exit code; as in a shell, 128 + n when signal n ended it, 127 or 126 when it could not start. */
export function runHere(
  [program = '', ...argv]: readonly string[],
  env: Record<string, string | undefined>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const forward = (signal: NodeJS.Signals) => {
      child.kill(signal)
      if (signal === 'SIGTSTP') process.kill(process.pid, 'SIGSTOP') // Ctrl-Z: the shell waits until all of the job stands
    }
    for (const signal of FORWARDED) process.on(signal, forward) // before the child runs: whoever sees it run may send one
    const child = spawn(program, argv, { stdio: 'inherit', env })
    const release = child.pid === undefined ? ignore : endWithUs(child.pid)
    process.once('exit', () => child.kill('SIGKILL')) // an error of ours leaves no orphan; after its own exit this does nothing
    child.on('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'ENOENT' && cause.code !== 'EACCES') return reject(cause)
      console.error(`${program}: ${cause.code === 'ENOENT' ? 'command not found' : 'permission denied'}`)
      resolve(cause.code === 'ENOENT' ? 127 : 126)
    })
    child.on('exit', (code, signal) => {
      release()
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]))
    })
  })
}

/** Told so by a line, it does nothing; without one the pipe was closed by our end. */
const WATCH = 'read -r _ || kill -KILL "$0" 2> /dev/null'

/**
 * SIGKILL cannot be passed on: a shell in a session of its own waits until this process has ended, and ends the command. Returns
 * what to call when the command has ended by itself, since its number may then be another's.
 */
function endWithUs(pid: number): () => void {
  const watcher = spawn('/bin/sh', ['-c', WATCH, String(pid)], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  watcher.on('error', ignore) // no shell here: the command would go on
  watcher.stdin.on('error', ignore)
  watcher.unref()
  ;(watcher.stdin as unknown as { unref(): void }).unref()
  return () => watcher.stdin.end('\n')
}

/** Every signal that people, terminals and supervisors send, and that a process may handle. */
const FORWARDED = [
  'SIGHUP',
  'SIGINT',
  'SIGQUIT',
  'SIGTERM',
  'SIGUSR1',
  'SIGUSR2',
  'SIGALRM',
  'SIGCONT',
  'SIGTSTP',
  'SIGWINCH',
  'SIGIO',
  'SIGURG',
  'SIGXCPU',
  'SIGVTALRM',
] as const satisfies readonly NodeJS.Signals[]
