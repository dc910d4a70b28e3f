import { spawn } from 'node:child_process'
import type { Command } from 'commander'
import { agent, type Context } from './context.ts'

export function execCommand(program: Command, context: () => Context): void {
  program
    .command('exec')
    .description('run a command whose HTTP and SOCKS clients reach semantic names: hedgerow exec -- curl http://…')
    .passThroughOptions()
    .argument('<command...>', 'the command and its arguments')
    .action(async (command: string[]) => {
      const proxies = (await agent(context(), '/proxy-environment')) as Record<string, string>
      process.exitCode = await runHere(command, { ...context().environment, ...proxies })
    })
}

/** The command's own exit code; as shells say it, 128 + n when signal n ended it, 127 or 126 when it could not start. */
export function runHere(
  [program = '', ...argv]: readonly string[],
  env: Record<string, string | undefined>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, { stdio: 'inherit', env })
    const forward = (signal: NodeJS.Signals) => child.kill(signal)
    process.on('SIGINT', forward).on('SIGTERM', forward)
    child.on('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'ENOENT' && cause.code !== 'EACCES') return reject(cause)
      console.error(`${program}: ${cause.code === 'ENOENT' ? 'command not found' : 'permission denied'}`)
      resolve(cause.code === 'ENOENT' ? 127 : 126)
    })
    child.on('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : (SIGNALS[signal] ?? 0))))
  })
}

const SIGNALS: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }
