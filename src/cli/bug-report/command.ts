import type { Command } from 'commander'
import { renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { TAR_END, tarHead, tarPadding } from '../../core/kit/tar.ts'
import type { Context } from '../context.ts'
import { isData, printData } from '../output.ts'
import { progress, say, note } from '../terminal.ts'

const ABOUT = `What is in this archive: what each role of this machine said of itself (status, check, metrics, journal, configuration), the lists of
the mesh where there was an admin credential, and the network of the machine. Tokens, keys and passwords were removed. Names of
services and nodes, addresses and log lines are in it: look through it before you give it away.
`

export function bugReportCommand(program: Command, context: () => Context): void {
  program
    .command('bug-report')
    .description(
      'collect what a report of a bug needs, without secrets: status, checks, metrics and journal of each role here, the lists of the mesh, the network',
    )
    .argument('[file]', 'the archive to write (hedgerow-bug-report-TIME.tgz)')
    .action(async (given?: string) => {
      const here = context()
      const name = `hedgerow-bug-report-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`
      const file = resolve(given ?? `${name}.tgz`)
      if (statSync(file, { throwIfNoEntry: false })?.isFile() === false)
        throw new MeshError('USAGE', { reason: `${file} is something else than a file`, remedy: 'Name a file.' })
      const [{ partsOf, textOf }, { redact, secretsIn }] = await Promise.all([
        import('./collect.ts'),
        import('./redact.ts'),
      ])
      const known = secretsIn(here.state)
      const parts = partsOf(here)
      const blocks = [entry(`${name}/README.txt`, ABOUT)]
      for (const [at, part] of parts.entries()) {
        progress(`${at} of ${parts.length}: ${part.name} …`)
        blocks.push(entry(`${name}/${part.name}`, redact(await textOf(part), known)))
      }
      write(file, gzipSync(Buffer.concat([...blocks, TAR_END])))
      if (isData(here)) return printData({ file, parts: parts.map((part) => part.name) }, here)
      say(`${file}: ${parts.length} files`)
      note('Tokens, keys and passwords were removed; names, addresses and log lines are in it. Look through it first.')
    })
}

function entry(name: string, text: string): Buffer {
  const body = Buffer.from(text)
  const head = tarHead({ name, size: body.length, mode: 0o600, mtime: Date.now() / 1_000, user: '' })
  return Buffer.concat([head, body, tarPadding(body.length)])
}

/** A name appears only with all of its bytes. */
function write(file: string, bytes: Buffer): void {
  const draft = `${file}.draft`
  try {
    writeFileSync(draft, bytes, { mode: 0o600, flag: 'wx' })
    renameSync(draft, file)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') rmSync(draft, { force: true })
    throw stateProblem(file, cause)
  }
}
