import type { Command } from 'commander'
import { type Context, credentialOf, rootClient } from './context.ts'
import { secondsOf } from './duration.ts'
import { grantText } from './login.ts'
import { isData, jsonText, printData, printTable } from './output.ts'
import { note, say } from './terminal.ts'
import { grantOf, ROLES } from './user.ts'

interface CreateOptions {
  role?: string
  org?: string
  app?: string[]
  ttl: string
}

export function apiTokenCommand(program: Command, context: () => Context): void {
  const token = program
    .command('api-token')
    .description('manage the tokens with which programs ask the root (machines join with `hedgerow token`)')
  token
    .command('create')
    .description(
      'create an API token that may what you may, or less, and print it as a credential file for --credential',
    )
    .argument('<name>', 'what it is for, for people')
    .option('--role <role>', `no more than this role: ${ROLES.join(', ')}`)
    .option('--org <name>', 'in this organisation')
    .option(
      '--app <names>',
      'only these apps, as app.namespace; may be given again',
      (value: string, all: string[] | undefined) => [...(all ?? []), ...value.split(',')],
    )
    .option('--ttl <duration>', 'lifetime, at most 366d', '30d')
    .action(async (name: string, { role, org, app, ttl }: CreateOptions) => {
      const here = context()
      const limits = {
        ...(role === undefined ? {} : { grants: [grantOf(role, org)] }),
        ...(app === undefined ? {} : { apps: app.map((one) => one.toLowerCase()) }),
      }
      const body = {
        name,
        ttlSeconds: secondsOf(ttl, '--ttl'),
        ...(Object.keys(limits).length === 0 ? {} : { limits }),
      }
      const made = await rootClient(here).ask('POST', '/v1/api-tokens', { body })
      if (isData(here)) return printData(made, here)
      const { url, ca } = credentialOf(here)
      process.stdout.write(jsonText({ url, ca, token: made.token }))
      note(`The API token ${made.id} is shown this once. It works until ${new Date(made.expiresAt).toISOString()}.`)
    })
  token
    .command('list')
    .description('list API tokens and sessions: your own, and those of users about whom you decide')
    .action(async () => {
      const { items } = await rootClient(context()).ask('GET', '/v1/api-tokens', { query: { limit: 1_000 } })
      if (isData(context())) return printData(items, context())
      printTable(
        ['id', 'user', 'kind', 'name', 'limits', 'expires', 'used'],
        items.map(({ id, user, kind, name, limits, expiresAt, usedAt }) => [
          id,
          user,
          kind === 'token' ? 'API token' : 'session',
          name,
          [...(limits?.grants ?? []).map(grantText), ...(limits?.apps ?? [])],
          dateOf(expiresAt),
          usedAt === undefined ? undefined : dateOf(usedAt),
        ]),
      )
    })
  token
    .command('revoke')
    .description('revoke an API token, or end a session; what it has open is cut')
    .argument('<id>', 'its id in the list')
    .action(async (id: string) => {
      const deleted = await rootClient(context()).ask('DELETE', '/v1/api-tokens/{id}', { path: { id } })
      if (isData(context())) return printData(deleted, context())
      say(`${id} revoked`)
    })
}

function dateOf(at: number): string {
  return new Date(at).toISOString().replace(/\.\d+Z$/, 'Z')
}
