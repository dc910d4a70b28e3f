import { readFileSync } from 'node:fs'
import { commandLine } from './cli/command-line.ts'

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error // `| head -1`: the reader has seen enough
})

const code = await commandLine(process.argv.slice(2), { environment: process.env, version: versionOf() })
if (code !== undefined) process.exitCode = code

/** The package's version: `package.json` lies one folder up in a clone and two in the published package. */
function versionOf(): string {
  for (const up of ['../package.json', '../../package.json']) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as {
        name?: string
        version: string
      }
      if (name === 'hedgerow') return version
    } catch {
      // the other place, then
    }
  }
  throw new Error('package.json is missing beside the program')
}
