import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parentPort } from 'node:worker_threads'
import { commandLine } from '../../src/cli/command-line.ts'

/** A thread that does one command line after another, as `hedgerow` would, and tells its exit code and what it wrote. */
const { version } = JSON.parse(readFileSync(resolve(import.meta.dirname, '../../package.json'), 'utf8')) as {
  version: string
}
const said = { stdout: '', stderr: '' }
for (const name of ['stdout', 'stderr'] as const)
  process[name].write = (text: string | Uint8Array) => ((said[name] += Buffer.from(text as string).toString()), true)

parentPort?.on('message', (args: string[]) => void answer(args))

async function answer(args: readonly string[]): Promise<void> {
  Object.assign(said, { stdout: '', stderr: '' })
  process.exitCode = undefined
  const code = await commandLine(args, { environment: process.env, version })
  parentPort?.postMessage({ code: code ?? process.exitCode ?? 0, ...said })
}
