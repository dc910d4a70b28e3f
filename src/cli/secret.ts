import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { isData, printData, printTable } from './output.ts'

interface CreateOptions {
  fromFile?: string
  replace?: boolean
}

export function secretCommand(program: Command, context: () => Context): void {
  const secret = program.command('secret').description('manage the secrets that services get as files')
  secret
    .command('create')
    .description('keep a secret of an app, sealed, at the root; its value is read from standard input')
    .argument('<name>', 'app.namespace.name, for example shop.acme.db-password')
    .option('--from-file <file>', 'read its value from this file')
    .option('--replace', 'give one that exists another value; instances get it when they are started again')
    .action(async (name: string, { fromFile, replace }: CreateOptions) => {
      const value = fromFile === undefined ? await standardInput() : contentOf(fromFile)
      if (value.length === 0) throw new MeshError('USAGE', { reason: 'the secret is empty' })
      if (value.length > MAX_BYTES)
        throw new MeshError('USAGE', { reason: `the secret has ${value.length} bytes, and ${MAX_BYTES} are allowed` })
      const body = { name, value: value.toString('base64'), ...(replace === true ? { replace } : {}) }
      const made = await rootClient(context()).ask('POST', '/v1/secrets', { body })
      if (isData(context())) await printData(made, context())
      else console.log(`secret ${made.name} ${made.result}`)
    })
  secret
    .command('list')
    .description('list the secrets, and which services have them; never their values')
    .action(async () => {
      const listed = await rootClient(context()).all('/v1/secrets', {})
      if (isData(context())) return printData(listed, context())
      printTable(
        ['secret', 'bytes', 'changed', 'used by'],
        listed.map(({ name, bytes, changedAt, usedBy }) => [
          name,
          bytes,
          new Date(changedAt).toISOString().replace(/\.\d+Z$/, 'Z'),
          usedBy.length === 0 ? undefined : usedBy,
        ]),
      )
    })
  secret
    .command('delete')
    .description('remove a secret that no service has')
    .argument('<name>', 'app.namespace.name')
    .action(async (name: string) => {
      const deleted = await rootClient(context()).ask('DELETE', '/v1/secrets/{name}', { path: { name } })
      if (isData(context())) await printData(deleted, context())
      else console.log(`secret ${name} deleted`)
    })
}

const MAX_BYTES = 65_536

/** As it comes, with a line end at its end if there is one. */
async function standardInput(): Promise<Buffer> {
  if (process.stdin.isTTY) console.error('Type the secret, then Ctrl-D:')
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function contentOf(file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (cause) {
    throw new MeshError('USAGE', { file }, { cause })
  }
}
