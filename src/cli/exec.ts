import type { Command } from 'commander'
import type { RootClient } from '../client/root-client.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import { execFrames } from '../core/kit/exec-frames.ts'
import { ignore } from '../core/kit/ignore.ts'
import { rootClient, type Context } from './context.ts'
import { instanceNamed } from './names.ts'
import { proxyOption, runWithProxy, type ProxyKind } from './with-proxy.ts'

export function execCommand(program: Command, context: () => Context): void {
  program
    .command('exec')
    .description(
      'run a command in an instance, as its user and in its circumstances: hedgerow exec shop.acme.cart.prod.0 -- ls -l',
    )
    .addOption(proxyOption().hideHelp())
    .passThroughOptions()
    .argument('<instance>', 'app.app-ns.service.service-ns.number, or a service that has one instance; then --')
    .argument('[command...]', 'the command and its arguments')
    .action(async (given: string, rest: string[], { proxy }: { proxy: ProxyKind }) => {
      const [separator, ...command] = rest
      if (separator === '--' && command.length > 0) {
        process.exitCode = await runInside(rootClient(context()), given, command)
        return
      }
      if (isNameOfInstance(given))
        throw new MeshError('USAGE', {
          reason: 'there is no command to run in the instance',
          remedy: `Write it after two dashes: hedgerow exec ${given} -- ls -l`,
        })
      console.error('hedgerow: `exec` without an instance is called `with-proxy` now: hedgerow with-proxy -- COMMAND')
      process.exitCode = await runWithProxy(context(), [given, ...rest], proxy)
    })
}

/** Five labels, the last one a number: no program is called so. */
function isNameOfInstance(given: string): boolean {
  return /^[a-z0-9-]+(\.[a-z0-9-]+){3}\.\d+$/i.test(given)
}

const INTERRUPTED = 130

/** What we are given is the command's, and what it prints is ours, until it has ended. Resolves to its exit code. */
async function runInside(root: RootClient, given: string, cmd: readonly string[]): Promise<number> {
  const ending = new AbortController()
  let wasInterrupted = false
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      wasInterrupted = true
      ending.abort()
    })
  process.stdout.once('error', () => ending.abort()) // the reader of our output has gone
  const number = await begun(root, given, cmd)
  void bringInput(root, number, ending.signal)
  try {
    for await (const { kind, bytes } of execFrames(
      root.bytes('/v1/exec/{exec}', { path: { exec: number } }, ending.signal),
    )) {
      if (kind === 'exit') return Number(bytes.toString())
      await written(kind === 'stdout' ? process.stdout : process.stderr, bytes)
    }
    throw new MeshError('REQUEST_FAILED', { reason: 'the connection ended before the command' })
  } catch (error) {
    if (!ending.signal.aborted) throw error
    return wasInterrupted ? INTERRUPTED : 1
  } finally {
    ending.abort()
    process.stdin.destroy()
  }
}

/** By its full name at once; only a name that the root does not know is looked up. */
async function begun(root: RootClient, given: string, cmd: readonly string[]): Promise<string> {
  const begin = async (name: string) =>
    (await root.ask('POST', '/v1/instances/{name}/exec', { path: { name }, body: { cmd: [...cmd] } })).exec
  try {
    return await begin(given)
  } catch (error) {
    if (!isMeshError(error, 'INSTANCE_UNKNOWN') || 'reason' in error.details) throw error
    return await begin(await instanceNamed(root, given))
  }
}

/** Each part is answered when the command has taken it, so that no more is read than it can use. */
async function bringInput(root: RootClient, number: string, signal: AbortSignal): Promise<void> {
  const bring = (body: Buffer, query: { last?: boolean } = {}) =>
    root.ask('POST', '/v1/exec/{exec}/input', { path: { exec: number }, query, body }, signal)
  try {
    for await (const chunk of process.stdin) {
      if (signal.aborted) return
      await bring(chunk as Buffer)
    }
    await bring(Buffer.alloc(0), { last: true })
  } catch {
    // the command has ended, or reads no more
  }
}

function written(to: NodeJS.WritableStream, bytes: Buffer): Promise<void> {
  return to.write(bytes)
    ? Promise.resolve()
    : new Promise((resolve) => void to.once('drain', resolve).on('error', ignore))
}
